"""Positions in the masked predictor: what it may depend on, by table, by rotation and by real coordinates."""

import pytest
import torch

from jepakit.errors import UserError
from jepakit.nn.coordinates import CoordinatesConfig
from jepakit.nn.positions import grid_positions
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.tokens import Ids, Tokens

GRID = (4, 6)
EXACT = {"atol": 1e-9, "rtol": 1e-9}
MODES = {
    "table": {},
    "paired": {"rotation": "paired"},
    "tiled": {"rotation": "tiled"},
    "fourier": {"coordinates": CoordinatesConfig(axes=2, unit=3.0)},
    "mlp": {"coordinates": CoordinatesConfig(kind="mlp", axes=2, unit=3.0)},
}
GRIDS, REAL = ("table", "paired", "tiled"), ("fourier", "mlp")


def build(mode):
    torch.manual_seed(0)
    grid = () if mode in REAL else GRID
    model = MaskedPredictor(PredictorConfig(dim=32, depth=2, heads=4), 20, grid, **MODES[mode]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def places(mode, samples=2):
    """Positions of all 24 tokens of each sample: of the grid, or scattered and other ones in each sample."""
    grid = grid_positions(GRID).expand(samples, -1, -1)
    if mode in GRIDS:
        return grid
    return grid + torch.rand(samples, 24, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def context(positions, ids, lengths=None):
    ids = torch.tensor(ids)
    values = torch.randn(*ids.shape, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Tokens(values, Ids(ids).gather(positions), None if lengths is None else torch.tensor(lengths))


SEEN, ASKED = [[1, 8, 23], [0, 5, 7]], torch.tensor([[20, 4], [2, 3]])


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_numbering_the_tokens_otherwise_changes_nothing(mode):
    """Tokens permuted together with their positions, their ids with them."""
    model, positions = build(mode), places(mode)
    expected = model(context(positions, SEEN), Ids(ASKED), positions=positions)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(5))
    number = torch.argsort(order)
    permuted = positions[:, order]
    assert torch.equal(Ids(number[ASKED]).gather(permuted), Ids(ASKED).gather(positions))
    predictions = model(context(positions, SEEN), Ids(number[ASKED]), positions=permuted)
    torch.testing.assert_close(predictions, expected, rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_the_order_of_the_context_changes_nothing_and_its_positions_do(mode):
    model, positions = build(mode), places(mode)
    seen = context(positions, SEEN)
    expected = model(seen, Ids(ASKED), positions=positions)
    turned = Tokens(seen.values.flip(1), seen.positions.flip(1))
    torch.testing.assert_close(model(turned, Ids(ASKED), positions=positions), expected, **EXACT)
    moved = Tokens(seen.values, seen.positions.flip(1))
    assert (model(moved, Ids(ASKED), positions=positions) - expected).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("mode", GRIDS)
def test_positions_of_the_grid_are_the_ids(mode):
    model, positions = build(mode), places(mode)
    seen = context(positions, SEEN)
    expected = model(seen, Ids(ASKED))
    torch.testing.assert_close(model(seen, Ids(ASKED), positions=positions), expected, rtol=0, atol=0)
    torch.testing.assert_close(model(seen, Ids(ASKED), positions=positions[:1]), expected, rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("mode", GRIDS)
def test_positions_moved_by_a_row_are_those_of_the_ids_a_row_further(mode):
    model, positions = build(mode), places(mode)
    seen, asked = context(positions, SEEN), Ids(torch.tensor([[10, 4], [2, 3]]))
    expected = model(seen, asked, positions=positions + torch.tensor([1, 0]))
    torch.testing.assert_close(model(seen, Ids(asked.values + 6)), expected, rtol=0, atol=0)


@torch.no_grad()
def test_rotary_predictions_know_distances_alone():
    """Context and queries moved together: pairs turned by one angle see no difference, a table does."""
    shift = torch.tensor([7, -3])
    model, positions = build("paired"), places("paired")
    seen = context(positions, SEEN)
    moved = Tokens(seen.values, seen.positions + shift)
    expected = model(seen, Ids(ASKED), positions=positions)
    torch.testing.assert_close(model(moved, Ids(ASKED), positions=positions + shift), expected, atol=1e-5, rtol=1e-5)
    table, row = build("table"), torch.tensor([0, 1])
    seen, asked = context(places("table"), [[1, 8], [0, 7]]), Ids(torch.tensor([[20, 4], [2, 3]]))
    here = table(seen, asked, positions=places("table"))
    there = table(Tokens(seen.values, seen.positions + row), asked, positions=places("table") + row)
    assert (here - there).abs().max() > 1e-3


@pytest.mark.parametrize("mode", REAL)
def test_gradient_reaches_the_coordinates(mode):
    model, positions = build(mode), places(mode).clone().requires_grad_()
    seen = context(positions, SEEN)
    model(seen, Ids(ASKED), positions=positions)[0, 0].square().sum().backward()
    moving = positions.grad.abs().sum(-1) > 0
    used = torch.zeros(2, 24, dtype=torch.bool)
    used[0, [1, 8, 23, 20, 4]] = True  # a query is seen by the others, a sample by itself alone
    assert torch.equal(moving, used)
    assert all(p.grad is not None for name, p in model.named_parameters() if name.startswith("coordinate_embed"))


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("on_host", [True, False], ids=["packed", "padded"])
def test_what_padding_holds_changes_nothing(mode, on_host, monkeypatch):
    if not on_host:
        monkeypatch.setattr("jepakit.nn.predictor.Packing.of", lambda *_: None)
    model, positions = build(mode), places(mode)
    lengths = torch.tensor([1, 2])
    seen = context(positions, SEEN, [2, 3])
    together = model(seen, Ids(ASKED, lengths), positions=positions)
    for sample in range(2):
        kept, count = int(seen.lengths[sample]), int(lengths[sample])
        alone = Tokens(seen.values[sample : sample + 1, :kept], seen.positions[sample : sample + 1, :kept])
        expected = model(alone, Ids(ASKED[sample : sample + 1, :count]), positions=positions[sample : sample + 1])
        torch.testing.assert_close(together[sample, :count], expected[0], **EXACT)
    padding = seen.positions.clone()
    padding[0, 2:] = torch.nan if mode in REAL else 3
    wild = Tokens(seen.values, padding, seen.lengths)
    other = model(wild, Ids(ASKED, lengths), positions=positions)
    torch.testing.assert_close(other[0, :1], together[0, :1], rtol=0, atol=0)
    torch.testing.assert_close(other[1], together[1], rtol=0, atol=0)


@torch.no_grad()
def test_samples_have_positions_of_their_own_and_several_lists_read_them():
    """Two lists of queries for each sample, in neighbouring rows."""
    model, positions = build("fourier"), places("fourier")
    lists = torch.tensor([[20, 4], [2, 3], [9, 10], [11, 12]])
    seen = context(positions.repeat_interleave(2, 0), [[1, 8], [1, 8], [0, 5], [0, 5]])
    together = model(seen, Ids(lists), positions=positions)
    for row in range(4):
        alone = Tokens(seen.values[row : row + 1], seen.positions[row : row + 1])
        expected = model(alone, Ids(lists[row : row + 1]), positions=positions[row // 2 : row // 2 + 1])
        torch.testing.assert_close(together[row], expected[0], **EXACT)


@pytest.mark.parametrize("mode", GRIDS)
def test_real_coordinates_are_refused_by_a_predictor_of_a_grid(mode):
    model, positions = build(mode), places(mode)
    seen = context(positions, SEEN)
    with pytest.raises(UserError, match=r"grid of 4 x 6 tokens, got real coordinates .*coordinates=CoordinatesConfig"):
        model(seen, Ids(ASKED), positions=positions.double() + 0.5)
    with pytest.raises(UserError, match="real coordinates"):
        model(Tokens(seen.values, seen.positions.float()), Ids(ASKED), positions=positions)


def test_other_mistakes():
    model, positions = build("fourier"), places("fourier")
    seen = context(positions, SEEN)
    with pytest.raises(UserError, match="2 coordinates a token, of all tokens, got none"):
        model(seen, Ids(ASKED))
    with pytest.raises(UserError, match="2 coordinates a token, got 3 numbers"):
        model(seen, Ids(ASKED), positions=torch.rand(2, 24, 3))
    with pytest.raises(UserError, match=r"grid of 4 x 6 tokens, got 3 numbers a token\. Give 2"):
        build("table")(context(places("table"), SEEN), Ids(ASKED), positions=torch.zeros(1, 24, 3, dtype=torch.int64))
    with pytest.raises(UserError, match=r"lie on no grid, got grid \(4, 6\)"):
        MaskedPredictor(PredictorConfig(dim=32, depth=1, heads=4), 20, GRID, coordinates=CoordinatesConfig())
