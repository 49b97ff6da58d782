"""Pieces of large files, read through memory maps: nothing is loaded, workers share the pages, and the maps stay small."""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jepakit.errors import UserError

_OPEN = 64  # maps at a time: each holds a file descriptor, of which a process often has 1,024
_TOUCHED = 64 * 2**20  # bytes read after which the maps' pages leave the process; the system's own cache keeps them
_AROUND = 2**16  # bytes that Linux maps around one that is read


class MappedFiles:
    """Read-only maps of many files, opened when first read and again in the process that unpickles them.

    Errors: a file that is gone, or shorter than `read` is asked for.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = paths
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._touched = 0

    def read(self, file: int, start: int, length: int) -> UInt8[np.ndarray, "length"]:
        """A copy of `length` bytes of a file from `start`."""
        opened = self._opened(file)
        if start + length > len(opened):
            raise UserError(
                f"{self.paths[file]} has {len(opened):,} bytes, {start + length:,} are needed: it was cut short. "
                "Copy or make it again."
            )
        piece = np.frombuffer(opened, np.uint8, length, start).copy()
        self._touched += max(length, _AROUND)
        if self._touched > _TOUCHED:
            self._touched = 0
            for mapped in list(self._maps.values()):
                if hasattr(mapped, "madvise"):  # Windows has none
                    mapped.madvise(mmap.MADV_DONTNEED)
        return piece

    def _opened(self, file: int) -> mmap.mmap:
        # A map that another thread drops here lives on as long as someone reads from it.
        opened = self._maps.get(file)
        if opened is None:
            try:
                with open(self.paths[file], "rb") as handle:
                    opened = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # ValueError: an empty file
                raise UserError(f"{self.paths[file]} cannot be read: {error}.") from error
            self._maps[file] = opened
            while len(self._maps) > _OPEN:
                self._maps.popitem(last=False)
        return opened

    def __getstate__(self) -> dict[str, object]:
        return {"paths": self.paths, "_maps": OrderedDict(), "_touched": 0}


class MappedArray:
    """A `.npy` file, mapped when first looked at and again in the process that unpickles it."""

    def __init__(self, path: str | Path):
        self.path = os.path.abspath(path)
        self._array: np.ndarray | None = None

    @property
    def array(self) -> np.ndarray:
        if self._array is None:
            self._array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return self._array

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_array": None}
