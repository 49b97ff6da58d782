"""Writes episode stores (`episode_store.py`): an episode is there whole, or not at all, whatever stops the writer."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.files import write_json
from jepakit.modalities.trajectories.episode_store import (
    DESCRIPTION,
    FORMAT,
    INDEX,
    VERSION,
    Step,
    check_name,
    is_number,
    is_store,
    read_description,
    read_rows,
    row_type,
)

_LOCK = ".lock"


class EpisodeWriter:
    """Appends episodes to a store, a new one or one that is there. One writer at a time; a context manager.

        with EpisodeWriter("episodes") as writer:
            writer.append({"observations": [steps, ...], "actions": [steps, ...], "rewards": [steps], ...})

    The first episode settles names, shapes and types, which are kept as they are. Data reach the disk before the index
    says so: a killed writer loses no episode whose `append` has returned, a power cut none either unless `sync` is off.

    Args:
        path: the folder: new, empty or a store.
        about: what makes the episodes, kept in `store.json` of a new store.
        sync: wait for the disk (some milliseconds an `append`; `extend` waits once for all).

    Raises:
        UserError: the folder holds something else, another process writes, a store that is damaged.
    """

    def __init__(self, path: str | Path, about: Mapping[str, Any] | None = None, sync: bool = True):
        self.path, self.sync = Path(path).expanduser(), sync
        self.arrays: dict[str, Step] = {}
        self.about, self.episodes, self.steps = dict(about or {}), 0, 0
        self._files: dict[str, io.FileIO] = {}
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: give a folder for the episodes.")
        if self.path.is_dir() and not is_store(self.path) and any(f.name != _LOCK for f in self.path.iterdir()):
            raise UserError(f"{self.path} is not empty and no episode store. Give a new folder for the episodes.")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path / _LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"Another process writes into {self.path}. Wait for it, or choose another folder.") from error
        try:
            if is_store(self.path):
                self._reopen()
        except BaseException:
            self.close()
            raise

    def _reopen(self) -> None:
        """Go on after the last whole episode: what lies beyond it is cut off."""
        self.arrays, self.about = read_description(self.path)
        rows = read_rows(self.path, self.arrays)
        self.episodes, self.steps = len(rows), int(rows["steps"].sum())
        for name, step in self.arrays.items():
            needed = self.steps * step.bytes
            file = self._open(name)
            if (found := os.fstat(file.fileno()).st_size) < needed:
                raise UserError(
                    f"{file.name} has {found:,} bytes, the index needs {needed:,}: it was cut short. Copy the store again."
                )
            file.truncate(needed)
        self._open(INDEX).truncate(self.episodes * row_type(self.arrays).itemsize)

    def __len__(self) -> int:
        return self.episodes

    def append(self, episode: Mapping[str, Any]) -> None:
        """Write an episode: see `extend`."""
        self.extend([episode])

    def extend(self, episodes: Iterable[Mapping[str, Any]]) -> None:
        """Write episodes, all of them whole or none: arrays of numbers by name, the same names in every episode.

        `observations [steps, ...]` and `actions [steps, ...]` must be there, two steps at least, and every array has a row
        for each step (those of the last step but for the observation are padding: repeat, or zero).

        Raises:
            UserError: arrays missing or new, of other shapes, types or lengths, NaN, one step; nothing is written then.
        """
        settled = self.arrays
        try:
            read = [self._checked(episode, self.episodes + number) for number, episode in enumerate(episodes)]
        except UserError:
            self.arrays = settled
            raise
        if not read:
            return
        if not is_store(self.path):
            self._create()
        lengths = [len(arrays["observations"]) for arrays in read]
        rows = np.zeros(len(read), row_type(self.arrays))
        rows["steps"] = lengths
        for place, (name, step) in enumerate(self.arrays.items()):
            file = self._files[name]
            file.seek(self.steps * step.bytes)
            for row, arrays in zip(rows, read, strict=True):
                content = arrays[name].data.cast("B")
                row["crc32"][place] = zlib.crc32(content)
                _write(file, content)
            if self.sync:
                os.fsync(file.fileno())
        for row in rows:
            row["own"] = zlib.crc32(row.tobytes()[:-4])
        index = self._files[INDEX]
        index.seek(self.episodes * rows.itemsize)
        _write(index, memoryview(rows.tobytes()))
        if self.sync:
            os.fsync(index.fileno())
        self.episodes += len(read)
        self.steps += sum(lengths)

    def _create(self) -> None:
        arrays = {name: {"shape": list(step.shape), "dtype": step.dtype.str} for name, step in self.arrays.items()}
        for name in (*self.arrays, INDEX):
            self._open(name)
        write_json(
            self.path / DESCRIPTION, {"format": FORMAT, "version": VERSION, "arrays": arrays, "about": self.about}
        )

    def _open(self, name: str) -> io.FileIO:
        path = self.path / (name if name == INDEX else f"{name}.bin")
        path.touch()
        self._files[name] = io.FileIO(path, "r+")  # unbuffered: a write that failed leaves nothing for later
        return self._files[name]

    def _checked(self, episode: Mapping[str, Any], number: int) -> dict[str, NDArray]:
        """The arrays as they are written; those of the first episode settle what the others must be."""
        name = f"Episode {number:,} for {self.path}"
        for key in ("observations", "actions"):
            if key not in episode:
                found = ", ".join(map(repr, episode)) or "nothing"
                raise UserError(f"{name} holds {found}; 'observations' and 'actions' must be there.")
        arrays = {key: _little_endian(np.asarray(value)) for key, value in episode.items()}
        steps = len(arrays["observations"]) if arrays["observations"].ndim else 0
        if steps < 2:
            raise UserError(f"{name} has {steps} observations, and an action needs one before and one after it. Leave it out.")
        for key, array in arrays.items():
            check_name(key)
            if not is_number(array.dtype) or array.ndim == 0 or len(array) != steps or 0 in array.shape:
                raise UserError(
                    f"{name}: {key} of type {array.dtype} and shape {list(array.shape)}; expected numbers, one row for each of "
                    f"the {steps} observations (those of the last step but for the observation are padding: repeat them)."
                )
            if array.dtype.kind == "f" and not (finite := np.isfinite(array).reshape(steps, -1).all(axis=1)).all():
                raise UserError(
                    f"{name}: {key} hold NaN or infinity, first at step {int(np.argmin(finite))}. Cut the episode before."
                )
        described = {key: Step(array.shape[1:], array.dtype) for key, array in arrays.items()}
        self.arrays = self.arrays or described
        for key in (*self.arrays, *(key for key in described if key not in self.arrays)):
            wanted, given = self.arrays.get(key), described.get(key)
            if wanted != given:
                differ = f"{given or 'not there'}, and in the store {wanted or 'not there'}"
                raise UserError(f"{name}: {key} are {differ}. Make the episodes alike.")
        return {key: arrays[key] for key in self.arrays}

    def close(self) -> None:
        """Let others write."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._lock.release()

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _little_endian(array: NDArray) -> NDArray:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")) if array.ndim else array


def _write(file: io.FileIO, content: memoryview) -> None:
    """All of it: a system call may write less than it was given."""
    while content:
        content = content[file.write(content) or 0 :]
