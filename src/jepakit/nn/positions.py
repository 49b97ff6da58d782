"""Fixed sine-cosine position tables on a grid, in the released I-JEPA (images) and V-JEPA (clips) conventions."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.nn import functional as F

from jepakit.errors import UserError


def sincos_1d(coordinates: Num[Tensor, "count"], dim: int) -> Float[Tensor, "count dim"]:
    """Sine block then cosine block, base 10000 (Vaswani et al. 2017, as arranged by MAE and I-JEPA)."""
    frequencies = 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angles = coordinates.double()[:, None] * frequencies.to(coordinates.device)[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def sincos_2d(grid: tuple[int, int], dim: int) -> Float[Tensor, "tokens dim"]:
    """Position table of a `(rows, columns)` grid in raster order; first half of `dim` the column, second the row."""
    rows, columns = grid
    row = torch.arange(rows).repeat_interleave(columns)
    column = torch.arange(columns).repeat(rows)
    return torch.cat([sincos_1d(column, dim // 2), sincos_1d(row, dim // 2)], dim=1)


def sincos_3d(grid: tuple[int, int, int], dim: int) -> Float[Tensor, "tokens dim"]:
    """Position table of a `(frames, rows, columns)` grid in raster order, in the released V-JEPA's convention.

    Frame, row and column each get an equal, even part of at least a third of `dim` (`uniform_power`), in this order, and
    what is too much is cut off the end.
    """
    part = 2 * math.ceil(dim / 6)
    return torch.cat([sincos_1d(axis, part) for axis in grid_positions(grid).unbind(1)], dim=1)[:, :dim]


def sincos_table(grid: tuple[int, ...], dim: int) -> Float[Tensor, "tokens dim"]:
    """Position table of a grid of one (a sequence), two (an image) or three axes (a clip)."""
    if len(grid) == 1:
        return sincos_1d(torch.arange(grid[0]), dim)
    if len(grid) == 2:
        return sincos_2d((grid[0], grid[1]), dim)
    if len(grid) == 3:
        return sincos_3d((grid[0], grid[1], grid[2]), dim)
    raise UserError(f"grid {grid}: positions are known for one to three axes.")


def interpolate_grid(
    table: Float[Tensor, "tokens dim"], grid: tuple[int, int], new_grid: tuple[int, int]
) -> Float[Tensor, "new_tokens dim"]:
    """A position table resampled to another grid (bicubic, as `transformers` does for `IJepaModel`)."""
    if grid == new_grid:
        return table
    image = table.reshape(1, *grid, -1).permute(0, 3, 1, 2).float()
    resized = F.interpolate(image, size=new_grid, mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(new_grid[0] * new_grid[1], -1).to(table.dtype)


def grid_positions(grid: tuple[int, ...], device: torch.device | None = None) -> Int[Tensor, "tokens axes"]:
    """Place of each token of a grid in raster order: `(row, column)`, `(frame, row, column)`, ..."""
    axes = torch.meshgrid(*(torch.arange(size, device=device) for size in grid), indexing="ij")
    return torch.stack(axes, dim=-1).reshape(-1, len(grid))


def grid_ids(positions: Int[Tensor, "*tokens axes"], grid: tuple[int, ...]) -> Int[Tensor, "*tokens"]:
    """Raster number of each place: the inverse of `grid_positions`."""
    ids = positions[..., 0]
    for axis in range(1, len(grid)):
        ids = ids * grid[axis] + positions[..., axis]
    return ids
