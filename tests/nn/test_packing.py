import pytest
import torch

from jepakit.nn import transformer
from jepakit.nn.attention_layout import AttentionLayout
from jepakit.nn.packing import Packing
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.tokens import Ids, Tokens, valid_mask
from jepakit.nn.transformer import Block
from jepakit.nn.vit import VisionTransformer, ViTConfig

LENGTHS = torch.tensor([4, 7, 2, 4, 0, 7, 1])
CPU = torch.device("cpu")


def tokens(batch=7, count=7, dim=16, dtype=torch.float64):
    return torch.randn(batch, count, dim, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_packing_and_back():
    packing = Packing.of([(LENGTHS, 7)], CPU)
    x = tokens()
    packed = packing.pack(x)
    assert packed.shape == (1, int(LENGTHS.sum()), 16)
    assert packing.groups == ((1, 1), (1, 2), (2, 4), (2, 7))
    assert packing.offsets.diff().tolist() == sorted(LENGTHS.tolist())
    back = packing.unpack(packed)
    real = valid_mask(LENGTHS, 7)
    torch.testing.assert_close(back[real], x[real])
    assert not back[~real].any()


def test_runs_side_by_side_are_packed_without_the_padding_between_them():
    first, last = torch.tensor([1, 3]), torch.tensor([2, 1])
    packing = Packing.of([(first, 3), (last, 2), (None, 1)], CPU)
    x = torch.arange(12.0).view(2, 6, 1)
    assert packing.pack(x).flatten().tolist() == [0, 3, 4, 5, 6, 7, 8, 9, 11]


@pytest.mark.parametrize("parts", [[(None, 5)], [(torch.tensor([5, 5]), 5)], [(torch.zeros(0, dtype=torch.long), 5)]])
def test_nothing_to_pack(parts):
    assert Packing.of(parts, CPU) is None


def test_lengths_that_only_the_gpu_knows_are_not_waited_for():
    assert Packing.of([(LENGTHS.to("meta"), 7)], torch.device("meta")) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_block_over_packed_tokens_equals_one_over_each_sample(dtype):
    block, packing = Block(16, 2).to(dtype), Packing.of([(LENGTHS, 7)], CPU)
    x = tokens(dtype=dtype).requires_grad_()
    packed = packing.unpack(block(packing.pack(x), packing))
    (found,) = torch.autograd.grad(packed.square().sum(), x)
    alone = [block(sample[None, :n])[0] for sample, n in zip(x, LENGTHS.tolist(), strict=True) if n]
    (expected,) = torch.autograd.grad(sum(part.square().sum() for part in alone), x)
    real = valid_mask(LENGTHS, 7)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(packed[real], torch.cat(alone), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found, expected, atol=10 * tolerance, rtol=tolerance)


def test_a_packing_in_pieces_holds_the_same_samples():
    packing = Packing.of([(LENGTHS, 7)], CPU)
    pieces = packing.pieces(8)
    assert [sum(piece.sizes) for piece in pieces] == [7, 4, 7, 7]
    assert torch.equal(torch.cat([piece.places for piece in pieces]), packing.places)
    for piece in pieces:
        assert piece.offsets.diff().tolist() == [length for count, length in piece.groups for _ in range(count)]
        assert piece.offsets[0] == 0
    assert [piece.groups for piece in packing.pieces(10**6)] == [packing.groups]
    assert [sum(piece.sizes) for piece in packing.pieces(1)] == [1, 2, 4, 4, 7, 7]  # a sample is never cut


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_block_works_on_pieces_as_on_the_whole(in_parts, monkeypatch):
    blocks = torch.randint(0, 3, (7, 7), generator=torch.Generator().manual_seed(1)) if in_parts else None
    block, packing = Block(16, 2).double(), Packing.of([(LENGTHS, 7)], CPU, blocks)
    x = packing.pack(tokens())
    whole = block(x, packing)
    monkeypatch.setattr(transformer, "PIECE", 8 * 64 * 8)  # eight tokens of 64 hidden numbers
    assert len(packing.pieces(8)) == 4
    torch.testing.assert_close(block(x, packing), whole, atol=1e-12, rtol=1e-12)


def padded(function, *inputs, monkeypatch):
    """The same with padding and masks instead."""
    with monkeypatch.context() as patch:
        patch.setattr(Packing, "of", staticmethod(lambda *_: None))
        return function(*inputs)


def test_an_encoder_of_ragged_contexts_equals_the_padded_one(monkeypatch):
    vit = VisionTransformer(ViTConfig(image_size=(12, 12), patch_size=4, channels=1, dim=16, depth=2, heads=2)).double()
    images = torch.randn(3, 1, 12, 12, dtype=torch.float64)
    ids = torch.stack([torch.randperm(9)[:6] for _ in range(6)])  # two contexts an image
    keep = Ids(ids, torch.tensor([6, 2, 5, 6, 1, 3]))
    for levels in (None, (1, 2)):
        found = vit(images, keep=keep, levels=levels)
        expected = padded(vit, images, keep, levels, monkeypatch=monkeypatch)
        torch.testing.assert_close(found.values[keep.valid], expected.values[keep.valid])
        torch.testing.assert_close(found.positions, expected.positions)


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("in_parts", [False, True])
def test_a_predictor_over_ragged_blocks_equals_the_padded_one(in_parts, conditioned, monkeypatch):
    predictor = MaskedPredictor(PredictorConfig(dim=16, depth=2, heads=2), 16, (3, 3)).double()
    context = Tokens(tokens(4, 3), torch.randint(0, 3, (4, 3, 2)), torch.tensor([3, 1, 2, 3]))
    queries = Ids(torch.randint(0, 9, (4, 5)), torch.tensor([2, 5, 5, 1]))
    parts = torch.tensor([[1, 2, 0, 0, 0], [1, 1, 2, 3, 3], [1, 2, 2, 2, 2], [1, 0, 0, 0, 0]]) if in_parts else None
    condition = torch.randn(4, 2, 16, dtype=torch.float64) if conditioned else None

    def predict():
        return predictor(context, queries, condition=condition, parts=parts)

    found, expected = predict(), padded(predict, monkeypatch=monkeypatch)
    torch.testing.assert_close(found[queries.valid], expected[queries.valid])


def test_parts_do_not_see_one_another_and_the_context_sees_no_part():
    predictor = MaskedPredictor(PredictorConfig(dim=16, depth=2, heads=2), 16, (3, 3), visible=True).double()
    context = Tokens(tokens(1, 3), torch.tensor([[[0, 0], [1, 1], [2, 2]]]))
    ids, parts = torch.tensor([[1, 2, 5, 7]]), torch.tensor([[1, 1, 2, 3]])
    together, seen = predictor(context, Ids(ids), visible=True, parts=parts)
    _, alone = predictor(context, Ids(ids[:, :0]), visible=True)
    torch.testing.assert_close(seen, alone)
    for part in (1, 2, 3):
        own = parts[0] == part
        single = predictor(context, Ids(ids[:, own]), parts=parts[:, own])
        torch.testing.assert_close(together[:, own], single)


def test_the_star_order_by_hand():
    layout = AttentionLayout(order="star", blocks=torch.tensor([[0, 0, 1, 1, 2]]))
    sees = layout.visible(5, CPU)[0, 0].int().tolist()
    assert sees == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]


@pytest.mark.gpu
def test_jagged_attention_on_a_gpu_equals_that_of_the_cpu():
    block, packing = Block(32, 2), Packing.of([(LENGTHS, 7)], CPU)
    x = tokens(dim=32, dtype=torch.float32)
    expected = packing.unpack(block(packing.pack(x), packing))
    cuda = torch.device("cuda")
    there = Packing.of([(LENGTHS, 7)], cuda)
    found = there.unpack(block.to(cuda)(there.pack(x.to(cuda)), there))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)
