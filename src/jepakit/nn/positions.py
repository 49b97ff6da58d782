"""Fixed sine-cosine position tables on a grid, in the released I-JEPA convention."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.nn import functional as F


def sincos_1d(coordinates: Num[Tensor, "count"], dim: int) -> Float[Tensor, "count dim"]:
    """Sine block then cosine block, base 10000 (Vaswani et al. 2017, as arranged by MAE and I-JEPA)."""
    frequencies = 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angles = coordinates.double()[:, None] * frequencies[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def sincos_2d(grid: tuple[int, int], dim: int) -> Float[Tensor, "tokens dim"]:
    """Position table of a `(rows, columns)` grid in raster order; first half of `dim` the column, second the row."""
    rows, columns = grid
    row = torch.arange(rows).repeat_interleave(columns)
    column = torch.arange(columns).repeat(rows)
    return torch.cat([sincos_1d(column, dim // 2), sincos_1d(row, dim // 2)], dim=1)


def interpolate_grid(
    table: Float[Tensor, "tokens dim"], grid: tuple[int, int], new_grid: tuple[int, int]
) -> Float[Tensor, "new_tokens dim"]:
    """A position table resampled to another grid (bicubic, as `transformers` does for `IJepaModel`)."""
    if grid == new_grid:
        return table
    image = table.reshape(1, *grid, -1).permute(0, 3, 1, 2).float()
    resized = F.interpolate(image, size=new_grid, mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(new_grid[0] * new_grid[1], -1).to(table.dtype)


def grid_positions(grid: tuple[int, int], device: torch.device | None = None) -> Int[Tensor, "tokens 2"]:
    """`(row, column)` of each token of a grid in raster order."""
    rows, columns = (torch.arange(n, device=device) for n in grid)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(-1, 2)
