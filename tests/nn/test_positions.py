from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jepakit.errors import UserError
from jepakit.nn.positions import grid_ids, grid_positions, interpolate_grid, sincos_1d, sincos_2d, sincos_3d, sincos_table

RELEASED = Path(__file__).parents[1] / "fixtures" / "vjepa1_sincos.safetensors"


@pytest.mark.parametrize(("rows", "columns", "dim"), [(4, 4, 8), (3, 7, 48), (16, 2, 20)])
def test_the_first_half_is_the_column_and_the_second_the_row(rows, columns, dim):
    """Entry by entry from the formula: sines, then cosines, of place / 10000^(k / count)."""
    table = sincos_2d((rows, columns), dim).numpy()
    quarter = dim // 4
    for row in range(rows):
        for column in range(columns):
            expected = [
                wave(place / 10000 ** (k / quarter))
                for place in (column, row)
                for wave in (np.sin, np.cos)
                for k in range(quarter)
            ]
            np.testing.assert_allclose(table[row * columns + column], expected, atol=1e-6)


def test_grid_positions_count_in_raster_order():
    assert grid_positions((2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_interpolation_keeps_its_own_grid_and_the_axes_apart():
    table = sincos_2d((6, 4), 16)
    assert interpolate_grid(table, (6, 4), (6, 4)) is table
    resized = interpolate_grid(table, (6, 4), (9, 5)).reshape(9, 5, 16)
    # The column's half must not change along rows, nor the row's half along columns.
    torch.testing.assert_close(resized[..., :8], resized[:1, :, :8].expand(9, -1, -1))
    torch.testing.assert_close(resized[..., 8:], resized[:, :1, 8:].expand(-1, 5, -1))
    assert resized[:, 0, 8:].std(0).max() > 0.1


def test_interpolation_to_twice_the_grid_follows_the_positions():
    """A smooth table at twice the density is close to the formula at half steps (away from the border)."""
    frequency = 0.3
    waves = torch.sin(frequency * torch.arange(10.0))[:, None].expand(10, 4)
    table = waves[:, None, :].expand(10, 10, 4).reshape(100, 4)
    resized = interpolate_grid(table, (10, 10), (20, 20)).reshape(20, 20, 4)
    expected = torch.sin(frequency * ((torch.arange(20.0) + 0.5) / 2 - 0.5))
    # Aligned at the cells' centres; aligned at the corners it would be 0.07 off.
    torch.testing.assert_close(resized[4:-4, 7, 0], expected[4:-4], atol=0.02, rtol=0)


@pytest.mark.parametrize(("dim", "part"), [(64, 22), (32, 12), (384, 128)])
def test_frame_row_and_column_get_equal_parts_and_the_last_is_cut(dim, part):
    table = sincos_3d((2, 3, 4), dim)
    assert table.shape == (24, dim)
    for token, (frame, row, column) in enumerate(grid_positions((2, 3, 4)).tolist()):
        whole = torch.cat([sincos_1d(torch.tensor([place]), part)[0] for place in (frame, row, column)])
        torch.testing.assert_close(table[token], whole[:dim], rtol=0, atol=0)


def test_positions_of_the_released_v_jepa():
    released = load_file(RELEASED)
    for name, dim in (("encoder.module.backbone.pos_embed", 64), ("predictor.module.backbone.predictor_pos_embed", 32)):
        torch.testing.assert_close(sincos_3d((4, 4, 4), dim), released[name][0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("grid", [(5,), (2, 3), (2, 3, 4)])
def test_ids_and_tables_of_any_grid(grid):
    positions = grid_positions(grid)
    assert grid_ids(positions, grid).tolist() == list(range(len(positions)))
    assert grid_ids(positions.expand(2, -1, -1), grid).shape == (2, len(positions))
    assert sincos_table(grid, 24).unique(dim=0).shape == (len(positions), 24)


def test_four_axes_are_too_many():
    with pytest.raises(UserError, match="one to three axes"):
        sincos_table((2, 2, 2, 2), 24)
