import copy
import pickle

import pytest
import torch
from torch.nn import functional as F

from jepakit.core.anticollapse import InfoNCE, InfoNCEConfig, VICRegConfig
from jepakit.core.batch import split_batch
from jepakit.core.system import shuffled
from jepakit.errors import UserError
from jepakit.modalities.texts.inputs import END, SEPARATOR, SPECIAL, TextInputs
from jepakit.modalities.texts.words import words
from jepakit.nn.language_model import Texts
from jepakit.nn.tokens import Ids
from jepakit.systems.llm_jepa import LLMJEPA, LLMJEPAConfig
from tests.tiny_systems import tiny_trainer

PAIRS = [("a b", ".a.b."), ("c", "c"), ("b c a d", ".b.(c)"), ("d a", "a|d"), ("c c c", "c{3}"), ("a", ".a.")]
INPUTS = TextInputs(vocabulary=(*SPECIAL, *sorted({w for pair in PAIRS for text in pair for w in words(text)})), max_length=9)
WORDS = len(INPUTS.vocabulary)
EXACT = {"atol": 1e-5, "rtol": 1e-5}


def build(seed=0, dtype=torch.float32, **options):
    torch.manual_seed(seed)
    system = LLMJEPA(LLMJEPAConfig(**{"dim": 16, "depth": 2, "latent_weight": 0.7, **options}), INPUTS, seed)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system.to(dtype)


def draw(system, pairs=PAIRS, step=0):
    samples = [{"text": text, "code": code, "id": i, "epoch": 0, "step": step} for i, (text, code) in enumerate(pairs)]
    return system.collator(0)(samples)


def hidden(system, ids):
    ids = torch.tensor([ids])
    return system.encoder.model(ids, torch.zeros_like(ids))[0]


def text_embedding(system, text):
    """The definition: the last of the k [PRED] tokens behind the text, read in a forward of its own."""
    k = system.config.predictor_tokens
    return hidden(system, [*INPUTS.word_ids(text), *range(WORDS, WORDS + k)])[-1]


def code_embedding(system, code):
    return hidden(system, INPUTS.word_ids(code))[-1]


def separately(system, pairs=PAIRS):
    """Language and latent loss from forwards of single texts."""
    losses = []
    for text, code in pairs:
        sequence = [*INPUTS.word_ids(text), SEPARATOR, *INPUTS.word_ids(code), END]
        logits = hidden(system, sequence) @ system.encoder.model.embedding.weight.mT
        first = len(INPUTS.word_ids(text)) + 1
        losses += [-logits[i - 1].log_softmax(0)[sequence[i]] for i in range(first, len(sequence))]
    texts = torch.stack([text_embedding(system, text) for text, _ in pairs])
    codes = torch.stack([code_embedding(system, code) for _, code in pairs])
    return torch.stack(losses).mean(), texts, codes


@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("target", ["shared", "stop-gradient"])
def test_the_packed_step_is_that_of_separate_forwards_value_and_gradient(k, target):
    system, twin = (build(predictor_tokens=k, target=target) for _ in range(2))
    terms = system.step(draw(system))
    language, texts, codes = separately(twin)
    latent = (1 - F.cosine_similarity(texts, codes if target == "shared" else codes.detach())).mean()
    torch.testing.assert_close(terms["language"], language, **EXACT)
    torch.testing.assert_close(terms["prediction"], latent, **EXACT)
    torch.testing.assert_close(terms["loss"], language + 0.7 * latent, **EXACT)
    terms["loss"].backward()
    (language + 0.7 * latent).backward()
    for ours, theirs in zip(system.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, **EXACT)


@pytest.mark.parametrize("k", [0, 1, 3])
def test_embeddings_are_read_at_each_samples_own_last_token(k):
    system = build(predictor_tokens=k)
    batch = draw(system)
    views, tokens = system.views(batch), system.encode(INPUTS.prepare([{"text": text} for text, _ in PAIRS]))
    assert tokens.values.shape == (len(PAIRS), 1, 16)
    assert tokens.positions.flatten().tolist() == [len(words(text)) + k - 1 for text, _ in PAIRS]
    for i, (text, code) in enumerate(PAIRS):
        expected = text_embedding(system, text)
        torch.testing.assert_close(views[i, 0], expected, **EXACT)
        torch.testing.assert_close(tokens.values[i, 0], expected, **EXACT)
        torch.testing.assert_close(views[i, 1], code_embedding(system, code), **EXACT)
        if k:  # one token earlier is another embedding
            early = hidden(system, [*INPUTS.word_ids(text), *range(WORDS, WORDS + k - 1)])[-1]
            assert (early - expected).abs().max() > 1e-2
    assert system.encoders()["target"](INPUTS.prepare([{"text": "a b"}])).values.shape == (1, 1, 16)


@torch.no_grad()
def test_the_text_does_not_see_the_code_nor_the_code_the_text():
    system = build()
    views = system.views(draw(system))
    other_codes = system.views(draw(system, [(text, "d d d d d") for text, _ in PAIRS]))
    other_texts = system.views(draw(system, [("d b d b", code) for _, code in PAIRS]))
    torch.testing.assert_close(other_codes[:, 0], views[:, 0], **EXACT)
    torch.testing.assert_close(other_texts[:, 1], views[:, 1], **EXACT)
    assert (other_codes[:, 1] - views[:, 1]).abs().amax(1).min() > 1e-2
    assert (other_texts[:, 0] - views[:, 0]).abs().amax(1).min() > 1e-2


def test_the_language_model_does_see_the_text():
    system = build()
    batch = draw(system)
    other = {**batch, "text": draw(system, [("d b d b", code) for _, code in PAIRS])["text"]}
    assert (system.language_loss(batch) - system.language_loss(other)).abs() > 1e-3


def test_padding_is_looked_at_by_nobody():
    system = build()
    batch = draw(system)
    wide = {
        name: {"tokens": F.pad(batch[name]["tokens"], (0, 4), value=7), "lengths": batch[name]["lengths"]}
        for name in ("text", "code")
    }
    for name, value in system.step({**batch, **wide}).items():
        torch.testing.assert_close(value, system.step(batch)[name], **EXACT)


def test_the_energy_of_matching_and_of_shuffled_pairs():
    system = build()
    batch = draw(system)
    _, texts, codes = separately(system)
    for partners in (torch.arange(len(PAIRS)), shuffled(len(PAIRS))):
        expected = 1 - F.cosine_similarity(texts, codes[partners])
        torch.testing.assert_close(system.energy(batch, partners), expected, **EXACT)


def test_the_negative_cosine_is_the_mean_over_all_pairs_that_do_not_match():
    system = build()
    _, texts, codes = separately(system)
    cosines = F.normalize(texts, dim=-1) @ F.normalize(codes, dim=-1).mT
    expected = cosines[~torch.eye(len(PAIRS), dtype=torch.bool)].mean()
    measured = system.step(draw(system))["negative_cosine"]
    torch.testing.assert_close(measured, expected, **EXACT)
    assert not measured.requires_grad
    assert float(system.step(draw(system, PAIRS[:1]))["negative_cosine"]) == 0


def test_latent_dropout_is_a_function_of_seed_and_step_and_keeps_the_weight_on_average():
    systems = [build(latent_dropout=0.75, latent_weight=2.0) for _ in range(2)]
    weights = [systems[0].weight_at(step) for step in range(1500)]
    assert [systems[1].weight_at(step) for step in range(100)] == weights[:100]  # any two processes
    assert set(weights) == {0.0, 8.0}
    # 1,500 draws of 8 with probability 1/4: the mean is 2 with a standard error of 0.09.
    assert abs(sum(weights) / 1500 - 2.0) < 0.3
    other = LLMJEPA(LLMJEPAConfig(dim=16, depth=1, latent_dropout=0.75), INPUTS, seed=1)
    assert [w > 0 for w in weights[:100]] != [other.weight_at(step) > 0 for step in range(100)]
    assert {build().weight_at(step) for step in range(50)} == {0.7}


def test_a_dropped_step_costs_one_forward_and_is_the_language_loss():
    system, forwards = build(latent_dropout=0.5), []
    system.encoder.model.register_forward_hook(lambda *_: forwards.append(1))
    weights = [system.weight_at(step) for step in range(40)]
    dropped, kept = weights.index(0.0), weights.index(1.4)
    terms = system.step(draw(system, step=dropped))
    assert set(terms) == {"loss", "language"}
    torch.testing.assert_close(terms["loss"], terms["language"])
    assert len(forwards) == 1
    terms = system.step(draw(system, step=kept))
    torch.testing.assert_close(terms["loss"], terms["language"] + 1.4 * terms["prediction"], **EXACT)
    assert len(forwards) == 3


def test_weight_zero_is_the_language_model_alone():
    system = build(latent_weight=0.0)
    terms = system.step(draw(system))
    assert set(terms) == {"loss", "language"}
    terms["loss"].backward()
    assert all(p.grad is not None for p in system.parameters())


@pytest.mark.parametrize("pieces", [2, 3, 6])
def test_pieces_of_a_batch_add_up_to_the_batch(pieces):
    joined, parts = build(dtype=torch.float64), build(dtype=torch.float64)
    batch = draw(joined)
    terms = joined.step(batch)
    terms["loss"].backward()
    counts = parts.counts(batch)
    assert counts["language"] == sum(len(words(code)) + 1 for _, code in PAIRS)
    assert counts["prediction"] == len(PAIRS)
    totals = {"loss": 0.0, "language": 0.0, "prediction": 0.0}
    for piece in split_batch(batch, pieces):
        found = parts.step({**piece, "counts": counts})
        found["loss"].backward()
        totals = {name: total + found[name].detach() for name, total in totals.items()}
    for name, total in totals.items():
        torch.testing.assert_close(total, terms[name].detach(), atol=1e-12, rtol=1e-12)
    for ours, theirs in zip(joined.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("method", ["sigreg", "vicreg", "barlow", "infonce"])
def test_anti_collapse_takes_the_joined_batch(method):
    system = build(anti_collapse=method)
    assert system.joins_batch
    assert not build().joins_batch
    terms = system.step(draw(system))
    terms["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in system.parameters())
    assert system.invariance == (1.0 if method == "sigreg" else 0.0)


def test_infonce_replaces_the_cosine_and_is_weighed_like_it():
    system = build(anti_collapse="infonce", infonce=InfoNCEConfig(temperature=0.07))
    terms = system.step(draw(system))
    _, texts, codes = separately(system)
    infonce = InfoNCE(InfoNCEConfig(temperature=0.07))(torch.stack([texts, codes]), 0)["infonce"]
    torch.testing.assert_close(terms["infonce"], infonce, **EXACT)
    torch.testing.assert_close(terms["loss"], terms["language"] + 0.7 * infonce, **EXACT)


def test_the_collator_pickles_and_a_pair_has_two_views():
    system = build()
    collate = pickle.loads(pickle.dumps(system.collator(0, views=8)))
    samples = [{"text": text, "code": code, "id": i} for i, (text, code) in enumerate(PAIRS)]
    batch = collate(samples)
    assert system.views(batch).shape == (len(PAIRS), 2, 16)
    assert batch["text"]["tokens"].shape == (6, 4)
    assert batch["code"]["lengths"].tolist() == [len(words(code)) for _, code in PAIRS]


def test_a_copy_learns_a_fixed_batch_without_touching_the_original():
    system = build().train()
    before = {name: value.clone() for name, value in system.state_dict().items()}
    twin, batch = copy.deepcopy(system), draw(system)
    optimizer = torch.optim.AdamW([p for group in twin.parameter_groups() for p in group["params"]], lr=3e-3)
    losses = []
    for _ in range(40):
        loss = twin.step(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(("options", "verdict"), [({}, "collapsed"), ({"anti_collapse": "infonce"}, "healthy")])
def test_the_monitor_sees_the_papers_loss_collapse_from_random_weights_and_infonce_not(tmp_path, options, verdict):
    trainer = tiny_trainer(
        "llm-jepa", tmp_path / "run", steps=150, batch_size=16, limit=360, health_samples=36, health_every=150,
        precision="float32", dim=32, depth=2, latent_dropout=0.0, checkpoint_every=150, **options,
    )  # fmt: skip
    trainer.train()
    line = [line for line in trainer.folder.read_metrics() if line["kind"] == "train"][-1]
    assert trainer.verdict == verdict, line
    assert (line["loss/negative_cosine"] > 0.95) == (verdict == "collapsed")
    if verdict == "collapsed":
        assert line["loss/prediction"] < 0.05  # which alone would look like success


def test_the_text_that_is_cut_keeps_its_place_in_the_sequence():
    long = TextInputs(vocabulary=INPUTS.vocabulary, max_length=2)
    system = LLMJEPA(LLMJEPAConfig(dim=16, depth=1), long)
    batch = system.collator(0)([{"text": "a b c d", "code": "a|d", "id": 0, "step": 0}])
    packed = system.dialogue(Texts(**batch["text"]), Texts(**batch["code"]))
    assert packed.tokens.tolist() == [[*INPUTS.word_ids("a b"), SEPARATOR, *INPUTS.word_ids("a|"), END]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dropout": 1.0}, "latent_dropout"),
        ({"latent_weight": -1.0}, "latent_weight"),
        ({"predictor_tokens": -1}, "predictor_tokens"),
        ({"target": "ema"}, "target"),
        ({"size": "big"}, "size"),
        ({"dim": 18}, "multiple of heads"),
        ({"vicreg": VICRegConfig(variance=1.0)}, "would do nothing"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_there_is_no_choice_of_tokens():
    with pytest.raises(UserError, match="no choice of tokens"):
        build().encode(INPUTS.prepare([{"text": "a"}]), keep=Ids(torch.zeros(1, 1, dtype=torch.long)))
