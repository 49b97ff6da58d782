import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jepakit.nn.pyramid import FeatureMap


def ramp(rows, columns, stride=1, offset=0.0):
    """A map whose two features are its own coordinates."""
    empty = FeatureMap(torch.zeros(1, 1, rows, columns, dtype=torch.float64), stride, offset)
    return FeatureMap(empty.positions.movedim(-1, 1), stride, offset)


@given(st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 2, 4, 8]), st.sampled_from([0.0, 0.5, 3.5]))
def test_a_ramp_read_anywhere_gives_the_coordinates_it_was_asked_for(rows, columns, stride, offset):
    """Row before column, no shift by half a pixel, in maps of any shape: the four mistakes of warping at once."""
    points = torch.rand(1, 5, 6, 2, dtype=torch.float64) * 70 - 5
    last = torch.tensor([rows - 1, columns - 1]) * stride + offset
    inside = torch.minimum(points.clamp_min(offset), last)
    torch.testing.assert_close(ramp(rows, columns, stride, offset).at(points), inside.movedim(-1, 1))


@pytest.mark.parametrize("offset", [0.0, 1.5])
def test_a_map_read_at_its_own_cells_is_itself(offset):
    level = FeatureMap(torch.randn(2, 3, 4, 5, dtype=torch.float64), 4, offset)
    torch.testing.assert_close(level.at(level.positions), level.values)


def test_tokens_are_the_cells_in_raster_order_over_their_pixels():
    tokens = FeatureMap(torch.arange(12.0).reshape(1, 2, 2, 3), stride=4, offset=1.5).tokens()
    assert tokens.values.tolist() == [[[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]]
    assert tokens.positions[0].tolist() == [[1.5, 1.5], [1.5, 5.5], [1.5, 9.5], [5.5, 1.5], [5.5, 5.5], [5.5, 9.5]]


def test_a_coarse_flow_in_pixels_carries_a_frame_back():
    """The recipe of the docstring, on a picture that moved by (3, -2) pixels: what it shows is exact away from the edge."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(1, 1, 24, 24, generator=generator)
    second = torch.roll(first, (3, -2), dims=(2, 3))
    fine, fine_of_next_frame = FeatureMap(first, 1), FeatureMap(second, 1)
    coarse = FeatureMap(torch.zeros(1, 1, 6, 6), stride=4, offset=1.5)
    flow = torch.tensor([3.0, -2.0]).reshape(1, 2, 1, 1).expand(1, 2, 6, 6)
    there = FeatureMap(flow, coarse.stride, coarse.offset).at(fine.positions)
    warped = fine_of_next_frame.at(fine.positions + there.movedim(1, -1))
    torch.testing.assert_close(warped[..., :21, 2:], first[..., :21, 2:])
    assert (fine_of_next_frame.at(fine.positions) - first).abs().mean() > 0.5


def test_flow_is_found_by_descent_through_the_warp():
    """Gradient reaches the points as well as the values."""
    rows = torch.arange(32.0)
    blob = torch.exp(-((rows[:, None] - 14) ** 2 + (rows - 15) ** 2) / 40)[None, None]
    moved = torch.exp(-((rows[:, None] - 16.5) ** 2 + (rows - 14) ** 2) / 40)[None, None]
    first, second = FeatureMap(blob, 1), FeatureMap(moved, 1)
    flow = torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.Adam([flow], lr=0.2)
    for _ in range(60):
        optimiser.zero_grad()
        (second.at(first.positions + flow) - first.values).square().sum().backward()
        optimiser.step()
    torch.testing.assert_close(flow.detach(), torch.tensor([2.5, -1.0]), atol=0.05, rtol=0)


def test_positions_stay_exact_in_half_precision():
    level = FeatureMap(torch.zeros(1, 1, 1, 600, dtype=torch.bfloat16), stride=1)
    assert level.positions[0, 0, :, 1].tolist() == list(range(600))
    assert level.at(level.positions).dtype == torch.float32
