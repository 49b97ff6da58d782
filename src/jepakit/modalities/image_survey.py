"""Looks at all image files before anything starts: which are damaged, how large they are, whether they are grey."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch.utils.data import get_worker_info

from jepakit.errors import UserError
from jepakit.modalities.image_collection import ImageDataConfig
from jepakit.modalities.image_files import (
    BadFile,
    Header,
    Pixels,
    UnreadableImage,
    cover_size,
    is_grey,
    loaded_size,
    read_header,
    read_image,
    with_channels,
)

T = TypeVar("T")

_DECODE_FIRST = 20_000
_CACHE_BYTES = 2**30
_OWN_SIZE = 64
_DEFAULT_SIZE = (96, 96)


class FileImages:
    """Pictures held as files and decoded when asked for; kept in memory when all of them fit into 1 GB.

    The memory is a convenience of one process: it is left behind when the object is pickled, and data-loader workers
    keep one only if it fits as many times as there are workers.

    Args:
        files: paths, or the files' contents; any sequence that can be pickled.
        names: what to call each in errors.
        headers: of each file, for the sum of the decoded sizes.
        cover: pictures are reduced to `loaded_size(height, width, cover)`.
    """

    def __init__(
        self,
        files: Sequence[str | bytes],
        names: Sequence[str],
        headers: Sequence[Header],
        cover: tuple[int, int],
        value_range: tuple[float, float] | None,
    ):
        self._files, self._names = files, names
        self._cover, self._range = cover, value_range
        self._bytes = sum(h.bytes_per_pixel * math.prod(loaded_size(h.height, h.width, cover)) for h in headers)
        self._members = np.arange(len(files))
        self._cache: dict[int, Pixels] = {}
        self.channels: int | None = None
        """Channels that `read` gives; None: as stored."""

    def __len__(self) -> int:
        return len(self._members)

    def read(self, index: int) -> Pixels:
        """Pixels of picture `index`. Raises `UnreadableImage`."""
        member = int(self._members[index])
        pixels = self._cache.get(member)
        if pixels is None:
            pixels = read_image(self._files[member], self._cover, self._range, self._names[member])
            worker = get_worker_info()
            if self._bytes * (worker.num_workers if worker else 1) <= _CACHE_BYTES:
                self._cache[member] = pixels
        return with_channels(pixels, self.channels or len(pixels))

    def keep(self, indices: Sequence[int]) -> None:
        """Forget all but these."""
        self._members = self._members[np.asarray(indices, dtype=np.int64)]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cache": {}}


@dataclass
class Survey:
    """What was seen. `good` are the positions of the usable files, to which everything else but `bad` refers."""

    pictures: FileImages
    good: list[int]
    bad: list[BadFile]
    image_size: tuple[int, int]
    channels: int
    shapes: NDArray[np.int64]
    modes: dict[str, int]


def survey_files(files: Sequence[str | bytes], names: Sequence[str], config: ImageDataConfig) -> Survey:
    """Read every header, and decode every file where that is affordable or the policy needs it.

    Raises:
        UserError: bad files under `on_bad_file="error"` (the first ten are listed), or no usable file at all.
    """
    seen = _each(lambda index: read_header(files[index], names[index]), range(len(files)), names, "Looking at images")
    headers = {index: header for index, header in enumerate(seen) if isinstance(header, Header)}
    bad = {index: file for index, file in enumerate(seen) if isinstance(file, BadFile)}
    grey = {index: header.grey for index, header in headers.items()}
    image_size = chosen_size(config, np.array([(h.height, h.width) for h in headers.values()])) if headers else (0, 0)
    pictures = FileImages(files, names, list(headers.values()), cover_size(image_size), config.value_range)
    if len(files) <= _DECODE_FIRST or config.on_bad_file == "skip":
        decoded = _each(lambda index: is_grey(pictures.read(index)), list(headers), names, "Decoding images")
        for index, result in zip(headers, decoded, strict=True):
            if isinstance(result, BadFile):
                bad[index] = result
            else:
                grey[index] = result
    good = [index for index in headers if index not in bad]
    _refuse([bad[index] for index in sorted(bad)], len(files), config.on_bad_file)
    pictures.keep(good)
    pictures.channels = config.channels or (1 if all(grey[index] for index in good) else 3)
    return Survey(
        pictures=pictures,
        good=good,
        bad=[bad[index] for index in sorted(bad)],
        image_size=image_size,
        channels=pictures.channels,
        shapes=np.array([(headers[index].height, headers[index].width) for index in good], dtype=np.int64),
        modes=dict(Counter(headers[index].mode for index in good)),
    )


def chosen_size(config: ImageDataConfig, shapes: NDArray[np.int64]) -> tuple[int, int]:
    """`config.image_size`, or the pictures' own size if it is one and small, or 96 x 96."""
    if config.image_size is not None:
        return config.image_size
    height, width = (int(side) for side in shapes[0])
    same = bool((shapes == shapes[0]).all())
    return (height, width) if same and min(height, width) <= _OWN_SIZE else _DEFAULT_SIZE


def _refuse(bad: Sequence[BadFile], total: int, policy: str) -> None:
    listed = "\n".join(f"  {file.path}: {file.reason}" for file in bad[:10])
    more = f"\n  and {len(bad) - 10:,} more" if len(bad) > 10 else ""
    if bad and policy == "error":
        raise UserError(
            f"{len(bad):,} of {total:,} image files cannot be read:\n{listed}{more}\n"
            "Repair or remove them, or leave them out with --on-bad-file skip."
        )
    if len(bad) == total:
        raise UserError(f"None of the {total:,} image files can be read:\n{listed}{more}\nRepair or replace them.")


def _each(look: Callable[[int], T], indices: Sequence[int], names: Sequence[str], label: str) -> list[T | BadFile]:
    """`look(index)` for each, in order, on all cores; a `BadFile` where the picture cannot be read."""

    def attempt(index: int) -> T | BadFile:
        try:
            return look(index)
        except UnreadableImage as error:
            return BadFile(names[index], error.reason)

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:  # Pillow decodes outside the interpreter's lock
        results: Iterable[T | BadFile] = pool.map(attempt, indices)
        short = len(indices) < 5_000
        console = Console(stderr=True)
        return list(track(results, label, len(indices), console=console, transient=True, disable=short))
