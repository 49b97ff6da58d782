"""Which cells of a grid are chosen, as lists of token ids: the last step of every sampler, and half of its time."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepakit.native import compiled


def cells_to_ids(cells: NDArray[np.bool_], frames: int = 1) -> tuple[Tensor, Tensor]:
    """Cells to padded raster ids and their lengths: `[..., cells] -> [..., frames * longest], [...]`.

    frames: so many grids lie one after the other, and the cells are chosen in each of them.
    """
    lengths = np.count_nonzero(cells, axis=-1)
    library = _library()
    ids = plain_ids(cells, lengths, frames) if library is None else _ids_in_c(library, cells, lengths, frames)
    return torch.from_numpy(ids), torch.from_numpy(lengths * frames)


def plain_ids(cells: NDArray[np.bool_], lengths: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
    """The ids with NumPy: what cells.c gives, and what runs without a compiler."""
    count = cells.shape[-1]
    ids = np.zeros((*lengths.shape, frames * int(lengths.max(initial=1))), dtype=np.int64)
    filled = np.arange(ids.shape[-1]) < frames * lengths[..., None]
    everywhere = np.broadcast_to(cells[..., None, :], (*lengths.shape, frames, count))
    ids[filled] = np.flatnonzero(everywhere) % (frames * count)  # both go through the samples, and the cells of each, in order
    return ids


def _ids_in_c(library: ctypes.CDLL, cells: NDArray[np.bool_], lengths: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
    longest, cells = int(lengths.max(initial=1)), np.ascontiguousarray(cells)
    ids = np.empty((*lengths.shape, frames * longest), dtype=np.int64)
    library.cells_to_ids(
        cells.ctypes.data, lengths.ctypes.data, ids.ctypes.data, lengths.size, cells.shape[-1], frames, longest
    )
    return ids


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = compiled(Path(__file__).with_suffix(".c"))
    if library is not None:
        library.cells_to_ids.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_long] * 4
        library.cells_to_ids.restype = None
    return library
