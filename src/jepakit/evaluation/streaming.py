"""Matrices of any size, worked through a block of rows at a time: memory maps stay on disk, nothing is copied whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jepakit.errors import UserError

Array = Tensor | np.ndarray
BLOCK_NUMBERS = 2**18  # 1 MiB of float32: large enough for fast products, small enough for the processor's caches


@dataclass(frozen=True)
class Rows:
    """A matrix `[n, ...]` that never exists as a whole: `function` of those rows of `values` that are asked for.

    Like a tensor it has a shape and a length, and `[slice or positions]` gives rows, as a tensor.
    """

    values: Tensor | Rows
    function: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        return self.function(self.values[rows])

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self[:1].shape[1:]))


Matrix = Tensor | Rows


def as_tensor(values: Array, name: str = "embeddings") -> Tensor:
    """A detached tensor of the same numbers, not copied (a memory map stays one).

    Raises:
        UserError: not an array of numbers.
    """
    if isinstance(values, Tensor):
        return values.detach()
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise UserError(f"{name}: expected numbers, got an array of type {array.dtype}.")
    array = np.require(array, array.dtype.newbyteorder("="), ["C"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nor does anyone here write
        return torch.from_numpy(array)


def blocks(*matrices: Matrix) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of all matrices, about `BLOCK_NUMBERS` numbers of the first at a time."""
    first = matrices[0]
    rows = max(1, BLOCK_NUMBERS // max(1, first[:1].numel()))
    for start in range(0, len(first), rows):
        yield tuple(matrix[start : start + rows] for matrix in matrices)


def moments(x: Matrix) -> tuple[Tensor, Tensor]:
    """Mean and variance (over n) of each column, float64, in one pass: blocks are joined as in Chan et al. (1979)."""
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for (block,) in blocks(x):
        block = block.double()
        own = block.mean(dim=0)
        spread = (block - own).square_().sum(dim=0)
        if count == 0:
            count, mean, squares = len(block), own, spread
            continue
        total, shift = count + len(block), own - mean
        mean = mean + shift * (len(block) / total)
        squares = squares + spread + shift.square() * (count * len(block) / total)
        count = total
    return mean, squares / count


def gram(x: Matrix) -> Tensor:
    """x'x `[width, width]`, float64."""
    total: Tensor | float = 0.0
    for (block,) in blocks(x):
        block = block.double()
        total = total + block.T @ block
    return torch.as_tensor(total)
