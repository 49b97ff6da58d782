"""A million names in two arrays: a Python list of them takes 100 bytes more for each, again in every loader worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from jaxtyping import Int, UInt8
from numpy.typing import NDArray

from jepakit.modalities.files.mapped import MappedArray

_CHUNK = 2**16


class Names(Sequence[str]):
    """Strings end to end; behaves like a list of them, and pickles as arrays.

    Args:
        text: the UTF-8 bytes of all strings, in memory or mapped.
        starts: where each begins, and where the last ends.
        prefix: what all begin with (a root folder).
        rows: which of them, in which order; None: all.
    """

    def __init__(
        self,
        text: UInt8[np.ndarray, "bytes"] | MappedArray,
        starts: Int[np.ndarray, "names_and_one"] | MappedArray,
        prefix: str = "",
        rows: NDArray[np.int64] | None = None,
    ):
        self._text, self._starts, self.prefix, self.rows = text, starts, prefix, rows

    @property
    def text(self) -> UInt8[np.ndarray, "bytes"]:
        return self._text.array if isinstance(self._text, MappedArray) else self._text

    @property
    def starts(self) -> Int[np.ndarray, "names_and_one"]:
        return self._starts.array if isinstance(self._starts, MappedArray) else self._starts

    @classmethod
    def of(cls, names: Iterable[str], prefix: str = "") -> Names:
        """Names from strings; those that are no Unicode (file names may be any bytes) are kept, too."""
        lengths, pieces = [np.zeros(1, dtype=np.int64)], list[bytes]()
        waiting: list[str] = []

        def flush() -> None:
            encoded = [name.encode(errors="surrogateescape") for name in waiting]
            lengths.append(np.array([len(name) for name in encoded], dtype=np.int64))
            pieces.append(b"".join(encoded))
            waiting.clear()

        for name in names:
            waiting.append(name)
            if len(waiting) == _CHUNK:
                flush()
        flush()
        return cls(np.frombuffer(b"".join(pieces), dtype=np.uint8), np.cumsum(np.concatenate(lengths)), prefix)

    def take(self, rows: Sequence[int] | NDArray) -> Names:
        """The names at these positions; the strings themselves are shared."""
        chosen = np.asarray(rows, dtype=np.int64)
        return Names(self._text, self._starts, self.prefix, chosen if self.rows is None else self.rows[chosen])

    def under(self, prefix: str) -> Names:
        """The same names with a prefix."""
        return Names(self._text, self._starts, prefix, self.rows)

    def __len__(self) -> int:
        return len(self.starts) - 1 if self.rows is None else len(self.rows)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Names: ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        place = range(len(self))[index]  # an IndexError where a list has one, and negative numbers count from the end
        row = place if self.rows is None else int(self.rows[place])
        return self.prefix + self.text[self.starts[row] : self.starts[row + 1]].tobytes().decode(errors="surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Names({', '.join(map(repr, self[:3]))}{', ...' if len(self) > 3 else ''}; {len(self):,})"
