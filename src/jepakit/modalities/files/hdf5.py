"""Opens HDF5 files that may be anyone's: nothing outside the file, no bombs; each refusal names the file and the array."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError, missing_extra
from jepakit.modalities.files.arrays import check_memory

SUFFIXES = (".hdf5", ".h5")
_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError)  # what h5py raises on damaged files


class Hdf5:
    """A group of an open file: its names, its groups, its arrays."""

    def __init__(self, group: Any, path: Path, place: str = ""):
        self._group, self.path, self.place = group, path, place
        self._read = 0
        self.names: list[str] = list(group)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def _own(self, name: str) -> Any:
        import h5py

        if name not in self.names:
            raise UserError(f"{self.path} holds no {self.place}{name}; there are {', '.join(self.names[:20])}.")
        if isinstance(self._group.get(name, getlink=True), h5py.ExternalLink):
            raise UserError(f"{self.path}: {self.place}{name} leads to another file, which is not followed. Copy it in.")
        return self._group[name]

    def is_group(self, name: str) -> bool:
        """Whether a name is that of a group, not of an array."""
        return hasattr(self._own(name), "keys")

    def group(self, name: str) -> Hdf5:
        """A group in this one."""
        if not self.is_group(name):
            raise UserError(f"{self.path}: {self.place}{name} is an array; a group is expected there.")
        return Hdf5(self._own(name), self.path, f"{self.place}{name}/")

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array."""
        return tuple(self._array(name).shape)

    def array(self, name: str) -> NDArray:
        """An array, read whole."""
        found = self._array(name)
        check_memory(found.nbytes)
        return np.asarray(found[()])

    def _array(self, name: str) -> Any:
        found = self._own(name)
        if hasattr(found, "keys"):
            raise UserError(f"{self.path}: {self.place}{name} is a group; an array is expected there.")
        if found.external or found.is_virtual:
            raise UserError(f"{self.path}: the numbers of {self.place}{name} lie in another file, which is not followed.")
        return found


@contextmanager
def open_hdf5(path: Path) -> Iterator[Hdf5]:
    """The root of a file. Errors: h5py is not installed, no HDF5, damaged; whatever goes wrong inside names the file."""
    try:
        import h5py
    except ImportError as error:
        raise missing_extra("h5py", "hdf5", f"Reading {path}") from error
    if not path.is_file():  # a pipe, too, on which reading waits
        raise UserError(f"{path} is no file. Check the path.")
    try:
        with h5py.File(path, "r") as file:
            yield Hdf5(file, path)
    except _ERRORS as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} cannot be read as HDF5: {reason[:500]}. Check the path, or copy the file again.") from error
