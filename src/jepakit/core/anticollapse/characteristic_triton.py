"""The sums of `characteristic.py` as Triton kernels (CUDA, float32): a tile of projections is read once and stays in registers.

A program's sums go to a row of their own and are added up by torch, so that the result does not depend on the order in
which programs end. On a machine without a GPU they run in Triton's interpreter (TRITON_INTERPRET=1), as in the tests.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

AVAILABLE = importlib.util.find_spec("triton") is not None
ROWS, COLUMNS = 64, 64

if AVAILABLE:
    import triton
    import triton.language as tl

    @triton.jit
    def _sums(x, partial, batch, slices, spacing, KNOTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
        """partial[row tile, part, knot, slice]: the sums of a tile of rows."""
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        inside = (rows < batch)[:, None] & (columns < slices)[None, :]
        angle = tl.load(x + rows[:, None].to(tl.int64) * slices + columns[None, :], mask=inside, other=0.0) * spacing
        unit_cos, unit_sin = tl.cos(angle), tl.sin(angle)
        cos = tl.where(inside, 1.0, 0.0)
        sin = tl.zeros_like(cos)
        out = partial + tl.program_id(0).to(tl.int64) * 2 * KNOTS * slices + columns
        for k in tl.static_range(KNOTS):
            tl.store(out + k * slices, tl.sum(cos, axis=0), mask=columns < slices)
            tl.store(out + (KNOTS + k) * slices, tl.sum(sin, axis=0), mask=columns < slices)
            following = cos * unit_cos - sin * unit_sin
            sin = cos * unit_sin + sin * unit_cos
            cos = following

    @triton.jit
    def _gradient(
        x, real, imaginary, grad, batch, slices, spacing, KNOTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
    ):
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        inside = (rows < batch)[:, None] & (columns < slices)[None, :]
        place = rows[:, None].to(tl.int64) * slices + columns[None, :]
        angle = tl.load(x + place, mask=inside, other=0.0) * spacing
        unit_cos, unit_sin = tl.cos(angle), tl.sin(angle)
        a, b = tl.zeros_like(angle), tl.zeros_like(angle)
        for j in tl.static_range(KNOTS):
            k = KNOTS - 1 - j
            turned = a * unit_cos - b * unit_sin
            real_k = tl.load(real + k * slices + columns, mask=columns < slices, other=0.0)
            imaginary_k = tl.load(imaginary + k * slices + columns, mask=columns < slices, other=0.0)
            b = a * unit_sin + b * unit_cos + imaginary_k[None, :]
            a = turned + real_k[None, :]
        tl.store(grad + place, a, mask=inside)


def sums(projections: Tensor, knots: int, spacing: float) -> Tensor:
    """As `characteristic.WithTorch.sums`."""
    batch, slices = projections.shape
    grid = (triton.cdiv(batch, ROWS), triton.cdiv(slices, COLUMNS))
    partial = projections.new_empty(grid[0], 2, knots, slices)
    _sums[grid](projections, partial, batch, slices, spacing, KNOTS=knots, ROWS=ROWS, COLUMNS=COLUMNS)
    return partial.sum(0)


def gradient(projections: Tensor, real: Tensor, imaginary: Tensor, spacing: float) -> Tensor:
    """As `characteristic.WithTorch.gradient`."""
    batch, slices = projections.shape
    grid = (triton.cdiv(batch, ROWS), triton.cdiv(slices, COLUMNS))
    grad = torch.empty_like(projections)
    real, imaginary = real.contiguous(), imaginary.contiguous()
    _gradient[grid](
        projections, real, imaginary, grad, batch, slices, spacing, KNOTS=len(real), ROWS=ROWS, COLUMNS=COLUMNS
    )
    return grad
