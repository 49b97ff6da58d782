"""Which pictures are asked for (`ImageDataConfig`), and what a reader finds (`Collection`), before it is split."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError, check_choice
from jepakit.modalities.data import FileDataConfig
from jepakit.modalities.files.names import Names
from jepakit.modalities.files.walk import BadFile
from jepakit.modalities.images.decoding import Pixels
from jepakit.modalities.labels import Labels


@dataclass(frozen=True, kw_only=True)
class ImageDataConfig(FileDataConfig):
    """Which pictures, and how they are split."""

    data: str
    """A folder, a folder that `jepakit pack` wrote, tar shards ('train-{000..015}.tar', or a folder of them), a .npy or .npz
    file, a folder of idx files, a built-in name (digits, fashion-mnist), or hf:PATH for a Hugging Face data set saved with
    save_to_disk."""
    labels: str | None = None
    """A CSV (columns path, label); a .npy beside array data; "none" to ignore labels. Default: labels from sub-folders
    or from the array file."""
    image_size: tuple[int, int] | None = None
    """Height and width the model sees. Default: that of the pictures if all have one and it is small (shorter side
    up to 64), else 96 96."""
    channels: int | None = None
    """1 (grey) or 3 (colour). Default: 1 if all pictures are grey."""
    value_range: tuple[float, float] | None = None
    """The pixel values that become black and white where pixels are not 8 bits. Default: the bit depth; floats within
    [0, 1] as they are, other arrays from their smallest to their largest value."""
    shuffle: Literal["full", "shards"] = "full"
    """The order of packed or tar shards in training: any, or shard after shard and mixed within four of them at a time
    (for disks and networks that are slow at reading here and there)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 1):
            raise UserError(f"image_size must be two positive numbers, height and width, got {self.image_size}.")
        if self.channels not in (None, 1, 3):
            raise UserError(f"channels must be 1 (grey) or 3 (colour), got {self.channels}.")
        check_choice("shuffle", self.shuffle, ("full", "shards"))
        if self.value_range is not None and not -math.inf < self.value_range[0] < self.value_range[1] < math.inf:
            raise UserError(f"value_range must be two numbers, the smaller first, got {self.value_range}.")


@runtime_checkable
class Pictures(Protocol):
    """Where pixels come from: files, arrays or a table. Pickles under `spawn`."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Pixels:
        """`[channels, height, width]`, `uint8` or `float32` in [0, 1]."""


@dataclass
class Collection:
    """Everything that was found, before it is split. A reader returns it; `open_images` makes `ImageData` of it."""

    name: str
    kind: str
    pictures: Pictures
    image_size: tuple[int, int]
    channels: int
    shapes: NDArray[np.int64]
    """`[n, 2]` height and width as stored."""
    modes: dict[str, int]
    """How many pictures are stored in which way (RGB, L, I;16, uint8, ...)."""
    labels: Labels | None = None
    paths: Names | None = None
    """As the user can open them."""
    relative: Names | None = None
    """Relative to the data folder."""
    groups: list[str] | None = None
    test: NDArray[np.bool_] | None = None
    """The data's own split; None: it has none."""
    bad_files: list[BadFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a user should know about how the data was read, in sentences."""
    value_range: tuple[float, float] | None = None
    shards: NDArray[np.int64] | None = None
    """Where each shard of the data ends, as a number of pictures; None: there are no shards."""
