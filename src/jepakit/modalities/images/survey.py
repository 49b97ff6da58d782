"""Looks at all image files before anything starts: which are damaged, how large they are, whether they are grey."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch.utils.data import get_worker_info

from jepakit.errors import UserError
from jepakit.modalities.files.walk import BadFile
from jepakit.modalities.images.collection import Collection, ImageDataConfig
from jepakit.modalities.images.decoding import (
    Pixels,
    UnreadableImage,
    cover_size,
    is_grey,
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
        decoded: bytes of all pictures when decoded.
        cover: pictures are reduced to `loaded_size(height, width, cover)`.
    """

    def __init__(
        self,
        files: Sequence[str | bytes],
        names: Sequence[str],
        decoded: int,
        cover: tuple[int, int],
        value_range: tuple[float, float] | None,
    ):
        self._files, self._names = files, names
        self._cover, self._range = cover, value_range
        self._bytes = decoded
        self._members: NDArray[np.int64] | None = None
        self._cache: dict[int, Pixels] = {}
        self.channels: int | None = None
        """Channels that `read` gives; None: as stored."""

    def __len__(self) -> int:
        return len(self._files if self._members is None else self._members)

    def file(self, index: int) -> str | bytes:
        """Path or content of the file of picture `index`."""
        return self._files[self._member(index)]

    def read(self, index: int) -> Pixels:
        """Pixels of picture `index`. Raises `UnreadableImage`."""
        member = self._member(index)
        pixels = self._cache.get(member)
        if pixels is None:
            pixels = read_image(self._files[member], self._cover, self._range, self._names[member])
            worker = get_worker_info()
            if self._bytes * (worker.num_workers if worker else 1) <= _CACHE_BYTES:
                self._cache[member] = pixels
        return with_channels(pixels, self.channels or len(pixels))

    @property
    def in_memory(self) -> bool:
        """Whether all of them have been decoded already, by this process."""
        return all(self._member(index) in self._cache for index in range(len(self)))

    def keep(self, indices: NDArray[np.int64]) -> None:
        """Forget all but these."""
        self._members = indices if self._members is None else self._members[indices]

    def _member(self, index: int) -> int:
        return index if self._members is None else int(self._members[index])

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cache": {}}


@dataclass
class Survey:
    """What was seen. `good` are the positions of the usable files, to which everything else but `bad` refers."""

    pictures: FileImages
    good: NDArray[np.int64]
    bad: list[BadFile]
    image_size: tuple[int, int]
    channels: int
    shapes: NDArray[np.int64]
    modes: dict[str, int]

    def collection(self, name: str, kind: str) -> Collection:
        """What was seen, before anything is known of labels, paths and split."""
        return Collection(
            name=name,
            kind=kind,
            pictures=self.pictures,
            image_size=self.image_size,
            channels=self.channels,
            shapes=self.shapes,
            modes=self.modes,
            bad_files=self.bad,
        )


def survey_files(files: Sequence[str | bytes], names: Sequence[str], config: ImageDataConfig) -> Survey:
    """Read every header, and decode every file where that is affordable or the policy needs it.

    Raises:
        UserError: bad files under `on_bad_file="error"` (the first ten are listed), or no usable file at all.
    """
    count = len(files)
    shapes, grey = np.zeros((count, 2), dtype=np.int64), np.ones(count, dtype=bool)
    depth, mode_of, modes = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int16), dict[str, int]()
    bad: dict[int, BadFile] = {}
    headers = each(_careful(lambda index: read_header(files[index], names[index]), names), range(count), "Looking at images")
    for index, header in enumerate(headers):
        if isinstance(header, BadFile):
            bad[index] = header
        else:
            shapes[index], grey[index], depth[index] = (header.height, header.width), header.grey, header.bytes_per_pixel
            mode_of[index] = modes.setdefault(header.mode, len(modes))
    sound = np.array([index for index in range(count) if index not in bad], dtype=np.int64)
    image_size = chosen_size(config, shapes[sound]) if len(sound) else (0, 0)
    cover = cover_size(image_size)
    pictures = FileImages(files, names, decoded_bytes(shapes[sound], depth[sound], cover), cover, config.value_range)
    if count <= _DECODE_FIRST or config.on_bad_file == "skip":
        seen = each(_careful(lambda index: is_grey(pictures.read(index)), names), sound, "Decoding images")
        for index, result in zip(sound.tolist(), seen, strict=True):
            if isinstance(result, BadFile):
                bad[index] = result
            else:
                grey[index] = result
        sound = sound[[index not in bad for index in sound.tolist()]]
    _refuse([bad[index] for index in sorted(bad)], count, config.on_bad_file)
    if bad:
        pictures.keep(sound)
    pictures.channels = config.channels or (1 if grey[sound].all() else 3)
    found = np.bincount(mode_of[sound], minlength=len(modes)).tolist()
    return Survey(
        pictures=pictures,
        good=sound,
        bad=[bad[index] for index in sorted(bad)],
        image_size=image_size,
        channels=pictures.channels,
        shapes=shapes[sound],
        modes={mode: number for mode, number in zip(modes, found, strict=True) if number},
    )


def decoded_bytes(shapes: NDArray, depth: NDArray | int, cover: tuple[int, int]) -> int:
    """About how many bytes pictures of these sizes `[n, 2]` take when decoded, at `depth` bytes a pixel."""
    scale = np.minimum(1.0, (np.array(cover) / np.maximum(shapes, 1)).max(axis=1, keepdims=True))
    return int((np.minimum(shapes * scale, 2 * np.array(cover)).prod(axis=1) * depth).sum())


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


def _careful(look: Callable[[int], T], names: Sequence[str]) -> Callable[[int], T | BadFile]:
    """`look`, giving a `BadFile` where the picture cannot be read."""

    def attempt(index: int) -> T | BadFile:
        try:
            return look(index)
        except UnreadableImage as error:
            return BadFile(names[index], error.reason)

    return attempt


def each(
    look: Callable[[int], T], indices: Sequence[int] | NDArray, label: str, ahead: int = 1_024, few: int = 5_000
) -> Iterator[T]:
    """`look(index)` for each, in order, on all cores, at most `ahead` at a time; a bar shows it where there are not `few`."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:  # Pillow decodes outside the interpreter's lock
        pieces = (indices[start : start + ahead] for start in range(0, len(indices), ahead))
        results = chain.from_iterable(pool.map(look, map(int, piece)) for piece in pieces)
        console = Console(stderr=True)
        yield from track(results, label, len(indices), console=console, transient=True, disable=len(indices) < few)
