"""The episode store: a folder of raw growing files, one for each named array, memory-mapped, lossless, appended to safely.

| file | what it holds |
|---|---|
| `store.json` | format and version, shape and type of a step of each array, and what made it (`about`) |
| `observations.bin`, `actions.bin`, ... | the steps of all episodes end to end, as C-ordered little-endian numbers |
| `episodes.index` | a row an episode: its steps, the crc32 of its part of each array, and a crc32 of the row itself |

Row t of every array belongs to step t: action t, reward t and end t (`terminated`, `truncated`) lead from observation t to
t + 1, so those of an episode's last step are padding. An episode counts once its row in the index is whole; what lies beyond
(the writer was killed, or is at work) is not read, and cut off by the next writer (`episode_writer.py`). So a store is
read while it grows: a reader sees the episodes that were whole when it opened.

Checksums: rows of the index are checked whenever a store is opened, episodes when they are read whole (`store[i]`,
`verify`, `jepakit inspect`). Windows of training are not: they read their own bytes only.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.files import read_json

FORMAT, VERSION = "jepakit-episodes", 1
DESCRIPTION, INDEX = "store.json", "episodes.index"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MOST_STEPS = 2**40  # of an episode: sums of them are numbers still
_TOUCHED = 64 * 2**20  # bytes read after which the maps' pages leave the process; the system's own cache keeps them
_AROUND = 2**16  # bytes that Linux maps around one that is read


@dataclass(frozen=True)
class Step:
    """What one step of an array is: its shape and its numbers' type, little-endian."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """Bytes of a step."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype.name} {list(self.shape)}"


def row_type(arrays: Mapping[str, Step]) -> np.dtype:
    """A row of the index: steps, a crc32 for each array in order, and that of the bytes before it."""
    return np.dtype([("steps", "<i8"), ("crc32", "<u4", (len(arrays),)), ("own", "<u4")])


def is_store(folder: Path) -> bool:
    """Whether a folder holds an episode store, however far it has come."""
    return (folder / DESCRIPTION).is_file()


def read_description(folder: Path) -> tuple[dict[str, Step], dict[str, Any]]:
    """The arrays and what made them. Errors: no store, of another version, a description that is damaged."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{folder} is no episode store: it has no {DESCRIPTION}. Check the path.")
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{path} does not say that it is of the format {FORMAT!r}. Check the path.")
    if found.get("version") != VERSION:
        raise UserError(
            f"{folder} is of version {found.get('version')} of the format, and this jepakit reads version {VERSION}. "
            "Collect it again, or use the jepakit that wrote it."
        )
    arrays, about = found.get("arrays"), found.get("about")
    if not isinstance(arrays, dict) or not isinstance(about, dict) or not {"observations", "actions"} <= set(arrays):
        raise UserError(f"{path} is damaged: its arrays are not described. Copy it again.")
    return {name: _step(name, described, path) for name, described in arrays.items()}, about


def _step(name: str, described: Any, path: Path) -> Step:
    shape, dtype = (described.get(key) for key in ("shape", "dtype")) if isinstance(described, dict) else (None, None)
    try:
        sizes = isinstance(shape, list) and all(type(side) is int and 0 < side < 2**31 for side in shape)
        kind = np.dtype(dtype) if isinstance(dtype, str) else None
        if not sizes or kind is None or not is_number(kind) or not _NAME.fullmatch(name):
            raise TypeError
        return Step(tuple(shape or ()), kind)
    except TypeError as error:
        raise UserError(f"{path} is damaged: the array {name!r} is not described. Copy it again.") from error


def is_number(kind: np.dtype) -> bool:
    """Whether a step may hold it: truth values, whole and real numbers that every machine knows."""
    return kind.kind in "biuf" and kind.itemsize <= 8


def check_name(name: str) -> None:
    """Raise `UserError` unless an array of this name may become a file."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name of an array: small letters, digits and _ make one, a letter first.")


def read_rows(folder: Path, arrays: Mapping[str, Step]) -> NDArray:
    """The rows of the episodes that are whole, `[episodes]` of `row_type`.

    Rows at the end that were not written to their end are left out. Errors: a row that is damaged before one that is not.
    """
    kind, path = row_type(arrays), folder / INDEX
    content = path.read_bytes() if path.is_file() else b""
    rows = np.frombuffer(content, kind, count=len(content) // kind.itemsize)
    whole = np.fromiter((_whole(row) for row in rows), dtype=bool, count=len(rows))
    count = len(rows) if whole.all() else int(np.argmin(whole))
    if whole[count:].any():
        raise UserError(f"{path} is damaged: the row of episode {count:,} is not what was written. Copy it again.")
    return rows[:count]


def _whole(row: np.void) -> bool:
    return 0 < int(row["steps"]) < _MOST_STEPS and zlib.crc32(row.tobytes()[:-4]) == int(row["own"])


class EpisodeStore:
    """The episodes that are whole at this moment, as memory maps. Pickles as its path.

    Args:
        path: the folder.
        episodes: take only that many, as were there at an earlier moment.

    Attributes:
        arrays: shape and type of a step of each array, by name.
        about: what made it: `{"environment", "policy", "seed", ...}` where `jepakit collect` did.
        lengths: steps of each episode, `[episodes]`; starts: first step of each, then the number of all, `[episodes + 1]`.

    Raises:
        UserError: no store, another version, a damaged index, files shorter than the index says; with the remedy.
    """

    def __init__(self, path: str | Path, episodes: int | None = None):
        self.path = Path(os.path.abspath(Path(path).expanduser()))
        self.arrays, self.about = read_description(self.path)
        self.rows = read_rows(self.path, self.arrays)
        if episodes is not None and episodes > len(self.rows):
            raise UserError(f"{self.path} has {len(self.rows):,} episodes and had {episodes:,}: it was made anew. Start again.")
        self.rows = self.rows[:episodes]
        self.lengths: NDArray[np.int64] = self.rows["steps"].astype(np.int64)
        self.starts: NDArray[np.int64] = np.concatenate([[0], np.cumsum(self.lengths)])
        for name, step in self.arrays.items():
            file, needed = self.file(name), int(self.starts[-1]) * step.bytes
            found = file.stat().st_size if file.is_file() else 0
            if found < needed:
                raise UserError(
                    f"{file} has {found:,} bytes, the index needs {needed:,}: it was cut short. Copy the store again."
                )
        self._maps: dict[str, mmap.mmap] = {}
        self._touched = 0

    @classmethod
    def open(cls, path: str | Path) -> EpisodeStore:
        """The store in a folder."""
        return cls(path)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bytes(self) -> int:
        """Bytes of all episodes."""
        return int(self.starts[-1]) * sum(step.bytes for step in self.arrays.values())

    def file(self, name: str) -> Path:
        """Where an array lies."""
        return self.path / f"{name}.bin"

    def array(self, name: str) -> Shaped[np.ndarray, "steps ..."]:
        """An array of all steps of all episodes, mapped: nothing is read before it is looked at. It cannot be written."""
        if name not in self.arrays:
            raise UserError(f"{self.path} holds no {name!r}. It holds {', '.join(self.arrays)}.")
        if not len(self):
            raise UserError(f"{self.path} holds no episodes yet. Collect some: jepakit collect --env ... --out {self.path}")
        if name not in self._maps:
            with open(self.file(name), "rb") as handle:
                self._maps[name] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        step, steps = self.arrays[name], int(self.starts[-1])
        return np.frombuffer(self._maps[name], step.dtype, steps * math.prod(step.shape)).reshape(steps, *step.shape)

    def touched(self, count: int, pieces: int = 1) -> None:
        """Say that so many bytes were read, from so many places: from time to time they leave the process's memory."""
        self._touched += max(count, pieces * _AROUND)
        if self._touched > _TOUCHED:
            self._touched = 0
            for mapped in self._maps.values():
                if hasattr(mapped, "madvise"):  # Windows has none
                    mapped.madvise(mmap.MADV_DONTNEED)

    def __getitem__(self, episode: int) -> dict[str, NDArray]:
        """An episode's arrays by name, copied and compared with their checksums. Errors: they are not what was written."""
        if not 0 <= episode < len(self):
            raise IndexError(f"episode {episode} of {len(self)}")
        begin, end = self.starts[episode : episode + 2]
        found = {}
        for number, name in enumerate(self.arrays):
            found[name] = self.array(name)[begin:end].copy()
            if zlib.crc32(found[name].data.cast("B")) != int(self.rows["crc32"][episode, number]):
                raise UserError(f"{self.file(name)} is damaged: episode {episode:,} is not what was written. Copy it again.")
            self.touched(found[name].nbytes)
        return found

    def __iter__(self) -> Iterator[dict[str, NDArray]]:
        return (self[episode] for episode in range(len(self)))

    def verify(self) -> None:
        """Read everything once and compare checksums. Errors: the first file and episode that differ."""
        for _ in self:
            pass

    def __reduce__(self) -> tuple[type[EpisodeStore], tuple[str, int]]:
        return type(self), (str(self.path), len(self))
