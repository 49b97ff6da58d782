import itertools

import pytest
import torch

from jepakit.errors import UserError
from jepakit.nn.convnet import ConvNetConfig
from jepakit.nn.flow import FlowConfig, FlowPredictor, carry, correlation, image_pyramid, stays
from jepakit.nn.frame_encoder import FrameEncoder
from jepakit.nn.pyramid import FeatureMap

SHAPE = ConvNetConfig(image_size=(32, 32), channels=1, dim=16, width=8)
LEVELS = (1, 2, 3)


def parts(radius=2):
    torch.manual_seed(0)
    predictor = FlowPredictor(FlowConfig(dim=8, radius=radius, width=8), LEVELS, [SHAPE.widths[level] for level in LEVELS])
    return FrameEncoder(SHAPE), predictor


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shift", [(3, -2), (0, 4), (-1, -5)])
def test_a_known_shift_is_carried_back(shift):
    """What lies at (r, c) of the first frame lies at (r, c) + shift of the second: rows and columns, and the way in time."""
    first = noise(1, 2, 20, 20)
    second = FeatureMap(torch.roll(first, shift, dims=(2, 3)), 1)
    flow = torch.tensor(shift, dtype=torch.float32).reshape(1, 2, 1, 1).expand(1, 2, 20, 20)
    inside = stays(second, flow)
    assert int(inside.sum()) == (20 - abs(shift[0])) * (20 - abs(shift[1]))
    apart = (carry(second, flow) - first).abs().amax(1)
    assert apart[inside].max() < 1e-4
    assert (carry(second, -flow) - first).abs().mean() > 0.5


def test_a_cell_that_goes_beyond_the_last_centre_is_told():
    level = FeatureMap(torch.zeros(1, 1, 2, 3), stride=4)
    right = torch.zeros(1, 2, 2, 3)
    right[:, 1] = 4.0
    assert stays(level, right)[0].tolist() == [[True, True, False]] * 2
    assert stays(level, -right)[0].tolist() == [[False, True, True]] * 2
    assert stays(level, 1.001 * right)[0].tolist() == [[True, False, False]] * 2


def test_correlation_is_that_of_a_plain_loop():
    first, second = noise(2, 3, 4, 5), noise(2, 3, 4, 5, seed=1)
    found = correlation(first, second, 2)
    assert found.shape == (2, 25, 4, 5)
    for number, (down, right) in enumerate(itertools.product(range(-2, 3), repeat=2)):
        for row, column in itertools.product(range(4), range(5)):
            there = (row + down, column + right)
            inside = 0 <= there[0] < 4 and 0 <= there[1] < 5
            expected = (first[:, :, row, column] * second[:, :, *there]).sum(1) if inside else torch.zeros(2)
            torch.testing.assert_close(found[:, number, row, column], expected)


def test_levels_of_a_picture_lie_where_those_of_the_encoder_do():
    """On a ramp each cell of each level shows its own place, away from the edge: no shift by half a pixel."""
    ramp = FeatureMap(torch.zeros(1, 1, 33, 33), 1).positions.movedim(-1, 1)
    encoder = FrameEncoder(ConvNetConfig(image_size=(33, 33), channels=1, dim=8, width=8))
    theirs = encoder(torch.zeros(1, 1, 33, 33), levels=(0, 1, 2))
    for level, other in zip(image_pyramid(ramp, 2), theirs, strict=True):
        assert (level.grid, level.stride, level.offset) == (other.grid, other.stride, other.offset)
        inner = (level.values - level.positions.movedim(-1, 1))[:, :, 1:-1, 1:-1]
        assert inner.abs().max() < 1e-4


def test_flow_says_the_same_of_a_place_on_every_level():
    """The last layer says nothing but a constant of one cell: each level adds its stride, whatever the level before said."""
    encoder, predictor = parts()
    with torch.no_grad():
        predictor.network[-1].weight.zero_()
        predictor.network[-1].bias.copy_(torch.tensor([1.0, -0.5]))
    pyramids = [encoder(noise(1, 1, 32, 32, seed=seed), levels=LEVELS) for seed in (0, 1)]
    flows = predictor(*pyramids)
    assert [flow.stride for flow in flows] == [2, 4, 8]
    assert [flow.values.mean((0, 2, 3)).tolist() for flow in flows] == [[14.0, -7.0], [12.0, -6.0], [8.0, -4.0]]
    full = predictor.between(encoder, noise(1, 1, 32, 32), noise(1, 1, 32, 32, seed=1))
    assert full.shape == (1, 2, 32, 32)
    assert full.mean((0, 2, 3)).tolist() == [-7.0, 14.0]  # right, down


def test_on_a_picture_twice_as_large_the_flow_is_twice_as_large():
    """The same features on levels of twice the stride: the same cells are compared."""
    _, predictor = parts()
    first, second = ([noise(1, SHAPE.widths[level], 32 >> level, 32 >> level, seed=level + seed) for level in LEVELS]
                     for seed in (0, 9))  # fmt: skip
    found = []
    for factor in (1, 2):
        strides = [factor * 2**level for level in LEVELS]
        pyramids = [list(map(FeatureMap, maps, strides)) for maps in (first, second)]
        found.append(predictor(*pyramids)[0].values)
    torch.testing.assert_close(found[1], 2 * found[0], atol=1e-4, rtol=1e-4)


def test_scale_and_mean_of_features_do_not_matter_to_what_is_compared():
    encoder, predictor = parts()
    pyramids = [encoder(noise(2, 1, 32, 32, seed=seed), levels=LEVELS) for seed in (0, 1)]
    large = [[FeatureMap(50 * level.values + 7, level.stride) for level in pyramid] for pyramid in pyramids]
    torch.testing.assert_close(predictor(*large)[0].values, predictor(*pyramids)[0].values, atol=1e-3, rtol=1e-3)


def test_mistakes():
    encoder, predictor = parts()
    with pytest.raises(UserError, match="of one shape"):
        predictor.between(encoder, torch.zeros(1, 1, 32, 32), torch.zeros(2, 1, 32, 32))
    with pytest.raises(UserError, match="3 levels, got 2"):
        predictor(*[encoder(torch.zeros(1, 1, 32, 32), levels=(1, 2))] * 2)
    with pytest.raises(UserError, match=r"flow.radius must be at least 1"):
        FlowConfig(radius=0)
