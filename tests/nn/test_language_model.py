import pytest
import torch
from torch.nn import functional as F

from jepakit.errors import UserError
from jepakit.nn.language_model import LanguageModel, LanguageModelConfig, Texts, pack, segment_positions

LENGTHS = ([3, 1, 4], [2, 5, 1])
EXACT = {"atol": 1e-5, "rtol": 1e-5}


def texts(lengths, seed=0):
    """Ragged texts whose padding holds words, so that padding that is looked at would show."""
    tokens = torch.randint(1, 20, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    return Texts(tokens, torch.tensor(lengths))


def build(dim=16, depth=2):
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(vocabulary=20, dim=dim, depth=depth, heads=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def alone(model, words):
    """Hidden states of one text with nothing beside it."""
    return model(words[None], torch.zeros_like(words[None]))[0]


def rows(text):
    return [tokens[:length] for tokens, length in zip(text.tokens, text.lengths, strict=True)]


def test_packed_texts_lie_behind_one_another_without_gaps():
    first, second = (texts(lengths, seed) for seed, lengths in enumerate(LENGTHS))
    packed = pack(first, second)
    assert packed.tokens.shape == (3, 9)
    for row in range(3):
        a, b = rows(first)[row], rows(second)[row]
        assert packed.tokens[row, : len(a) + len(b)].tolist() == [*a.tolist(), *b.tolist()]
        assert packed.segments[row].tolist() == [0] * len(a) + [1] * len(b) + [-1] * (9 - len(a) - len(b))
        assert packed.last[row].tolist() == [len(a) - 1, len(a) + len(b) - 1]


def test_positions_begin_anew_in_every_segment():
    segments = torch.tensor([[0, 0, 0, 1, 1, -1, -1], [0, 1, 1, 1, 2, 2, -1]])
    assert segment_positions(segments).tolist() == [[0, 1, 2, 0, 1, 0, 1], [0, 0, 1, 2, 0, 1, 0]]


def test_a_suffix_follows_each_texts_own_last_word():
    text = texts([3, 1, 4])
    longer = text.append(torch.tensor([7, 8]))
    assert longer.lengths.tolist() == [5, 3, 6]
    assert [row.tolist() for row in rows(longer)] == [[*row.tolist(), 7, 8] for row in rows(text)]
    assert text.append(torch.arange(0)).lengths.tolist() == [3, 1, 4]


@pytest.mark.parametrize("number", [2, 3])
def test_packed_texts_are_each_what_they_are_alone_value_and_gradient(number):
    parts = [texts(lengths, seed) for seed, lengths in enumerate([*LENGTHS, [1, 2, 3]][:number])]
    packed_model, separate_model = build(), build()
    packed = pack(*parts)
    embedded = packed.read(packed_model(packed.tokens, packed.segments))
    separate = torch.stack([torch.stack([alone(separate_model, row)[-1] for row in rows(part)]) for part in parts])
    torch.testing.assert_close(embedded, separate, **EXACT)
    readout = torch.randn(embedded.shape, generator=torch.Generator().manual_seed(9))
    (embedded * readout).sum().backward()
    (separate * readout).sum().backward()
    for ours, theirs in zip(packed_model.parameters(), separate_model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, **EXACT)


def test_no_token_sees_what_follows():
    model, words = build(), texts([6]).tokens
    changed = words.clone()
    changed[0, 4] = (words[0, 4] + 1) % 20
    before, after = alone(model, words[0]), alone(model, changed[0])
    torch.testing.assert_close(after[:4], before[:4], rtol=0, atol=0)
    assert ((after[4:] - before[4:]).abs().amax(dim=1) > 1e-3).all()


def test_the_order_of_words_counts():
    model = build()
    words = torch.tensor([5, 6, 7])
    assert (alone(model, words)[-1] - alone(model, words[[1, 0, 2]])[-1]).abs().max() > 1e-3


def test_the_loss_is_the_cross_entropy_of_the_tokens_that_are_asked_for():
    model, words = build(), texts([6]).tokens[0]
    asked = torch.tensor([[False, False, False, True, False, True]])
    hidden = alone(model, words)
    expected = torch.stack([
        -(hidden[place - 1] @ model.embedding.weight.mT).log_softmax(0)[words[place]] for place in (3, 5)
    ])
    torch.testing.assert_close(model.next_token_loss(hidden[None], words[None], asked), expected, **EXACT)


def test_before_training_no_word_is_much_likelier_than_another():
    """The table serves both ends: unit-sized tokens going in, logits of order 1 coming out."""
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(vocabulary=200, dim=64, depth=2, heads=2))
    words = torch.randint(200, (8, 12))
    hidden = model(words, torch.zeros_like(words))
    assert 0.5 < float((model.embedding(words) * 8).detach().std()) < 2
    assert 0.5 < float(F.linear(hidden, model.embedding.weight).detach().std()) < 2


def test_double_precision_passes_through():
    model = build().double()
    packed = pack(*(texts(lengths) for lengths in LENGTHS))
    assert model(packed.tokens, packed.segments).dtype == torch.float64


@pytest.mark.parametrize("options", [{"dim": 18, "heads": 4}, {"dim": 9, "heads": 3}, {"depth": 0}, {"vocabulary": 0}])
def test_mistakes(options):
    with pytest.raises(UserError):
        LanguageModelConfig(**{"vocabulary": 20, **options})
