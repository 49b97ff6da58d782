"""Reads pictures that come as arrays: `.npy`, `.npz`, folders of idx files, and the built-in sets.

Layouts `[n, h, w]`, `[n, h, w, c]` and `[n, c, h, w]` (c = 1 or 3) are told apart by the shape. `uint8` is kept,
`uint16` counts as 16 bits, floats within [0, 1] are kept; anything else is mapped linearly so that the smallest
value of the whole array becomes 0 and the largest 1, unless `value_range` says otherwise.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.modalities.files.arrays import check_memory, map_array, open_npz, readable
from jepakit.modalities.images.decoding import Pixels, with_channels

_TRAIN_KEYS = ("images", "clips", "x", "x_train", "train_images")
_LABEL_KEYS = ("labels", "label", "y", "y_train", "train_labels")
_TEST_KEYS = ("x_test", "test_images")
_TEST_LABEL_KEYS = ("y_test", "test_labels")
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IDX_NAME = re.compile(r"(?P<split>train|t10k|test).*(?P<what>images|labels).*idx\d", re.IGNORECASE)


@dataclass
class Arrays:
    """What an array file holds: pictures in the file's layout, labels as stored, and the file's own split."""

    images: list[NDArray]  # one array, or [train, test]
    labels: list[NDArray] | None
    path: str | None = None  # a .npy, which can be mapped instead of loaded


class ArrayImages:
    """Pictures in memory, or in a memory-mapped `.npy` that is opened anew after pickling."""

    def __init__(self, arrays: list[NDArray], value_range: tuple[float, float] | None, path: str | None = None):
        self._arrays: list[NDArray] | None = arrays
        self._path = path
        self._layouts = [_layout(array.shape) for array in arrays]
        if len({_height_width(array.shape) for array in arrays}) > 1 or len(set(self._layouts)) > 1:
            shapes = " and ".join(str(array.shape) for array in arrays)
            raise UserError(f"The training and test pictures differ in shape: {shapes}. Make them one size and layout.")
        self._starts = np.cumsum([0, *(len(array) for array in arrays)])
        self.height, self.width = _height_width(arrays[0].shape)
        self.stored_channels = 1 if arrays[0].ndim == 3 else arrays[0].shape[1 if self._layouts[0] == "nchw" else 3]
        self.channels = self.stored_channels
        """Channels that `read` gives; may be set to 1 or 3."""
        self._range = _value_range(arrays, value_range)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def found_range(self) -> tuple[float, float] | None:
        """The range of values if it had to be looked for in the pixels; None if their type or [0, 1] says it."""
        return None if self._range in (None, (0.0, 1.0), (0.0, 65535.0)) else self._range

    def read(self, index: int) -> Pixels:
        """Pixels `[channels, height, width]` of picture `index`, `uint8` or `float32` in [0, 1]."""
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        stored = np.asarray(self._opened()[part][index - self._starts[part]])
        if stored.ndim == 2:
            stored = stored[None]
        elif self._layouts[part] == "nhwc":
            stored = np.ascontiguousarray(stored.transpose(2, 0, 1))
        if self._range is None:
            return with_channels(stored.copy(), self.channels)
        low, high = self._range
        scaled = (stored.astype(np.float64) - low) / (high - low)
        return with_channels(scaled.clip(0.0, 1.0).astype(np.float32), self.channels)

    def _opened(self) -> list[NDArray]:
        if self._arrays is None and self._path is not None:
            self._arrays = [np.load(self._path, mmap_mode="r", allow_pickle=False)]
        assert self._arrays is not None
        return self._arrays

    def __getstate__(self) -> dict[str, object]:
        # A mapped file would be pickled as a copy of all its pixels.
        return {**self.__dict__, "_arrays": None} if self._path else self.__dict__


def read_arrays(path: Path) -> Arrays:
    """Read `.npy` or `.npz`. Raises `UserError` that says what was found and what is expected."""
    if path.suffix == ".npy":
        return Arrays([map_array(path)], None, os.path.abspath(path))
    with open_npz(path) as (keys, read):
        chosen = [_first(path, keys, names) for names in (_TRAIN_KEYS, _TEST_KEYS, _LABEL_KEYS, _TEST_LABEL_KEYS)]
        train, test, labels, test_labels = (read(key) if key else None for key in chosen)
    if train is None:
        raise UserError(
            f"{path} holds {', '.join(map(repr, keys)) or 'nothing'}; expected the pictures under 'images', 'x', or "
            "'x_train' and 'x_test' (labels under 'labels', 'y', or 'y_train' and 'y_test')."
        )
    if test is None:
        return Arrays([train], None if labels is None else [labels])
    if (labels is None) != (test_labels is None):
        raise UserError(f"{path} holds labels for one of its two splits only; give both or none.")
    return Arrays([train, test], None if labels is None or test_labels is None else [labels, test_labels])


def find_idx(folder: Path) -> dict[tuple[str, str], Path]:
    """The idx files of a folder by (`train` or `test`, `images` or `labels`), as MNIST and Fashion-MNIST name them."""
    found = {}
    for file in sorted(folder.iterdir()):
        match = _IDX_NAME.search(file.name)
        if match and file.is_file() and file.suffix in ("", ".gz"):
            split = "train" if match["split"].lower() == "train" else "test"
            found[split, match["what"].lower()] = file
    return found


def read_idx_folder(folder: Path) -> Arrays:
    """Read a folder of idx files (`train-images-idx3-ubyte`, optionally `.gz`, and so on)."""
    files = find_idx(folder)
    if ("train", "images") not in files:
        raise UserError(f"{folder} holds idx files, but none whose name contains train...images...idx3.")
    splits = [split for split in ("train", "test") if (split, "images") in files]
    images = [read_idx(files[split, "images"]) for split in splits]
    labelled = [(split, "labels") in files for split in splits]
    if not all(labelled):
        if any(labelled):
            raise UserError(f"{folder} holds labels for one of its two splits only; give both or none.")
        return Arrays(images, None)
    return Arrays(images, [read_idx(files[split, "labels"]) for split in splits])


def read_idx(path: Path) -> NDArray:
    """One idx file (format: http://yann.lecun.com/exdb/mnist/), gzip-compressed or not."""
    with readable(path), gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as handle:
        head = handle.read(4)
        zeros, kind, axes = struct.unpack(">HBB", head.rjust(4, b"?"))
        if zeros != 0 or kind not in _IDX_TYPES or axes == 0:
            raise UserError(f"{path} is not an idx file: it starts with {head.hex(' ')}. Copy or download it again.")
        shape = struct.unpack(f">{axes}I", handle.read(4 * axes))
        dtype = np.dtype(_IDX_TYPES[kind])
        size = math.prod(shape) * dtype.itemsize
        check_memory(size)
        content = handle.read(size + 1)
        if len(content) != size:
            found = "fewer" if len(content) < size else "more"
            raise ValueError(f"its header promises {size:,} bytes of numbers, it holds {found}")
        return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def digits() -> tuple[Arrays, NDArray[np.bool_]]:
    """scikit-learn's 1,797 grey 8x8 digits, and which 597 are held out: stratified, seed 0."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    order = np.arange(len(bunch.target))
    _, test = train_test_split(order, test_size=597, stratify=bunch.target, random_state=0)
    return Arrays([bunch.images.astype(np.float32) / 16], [bunch.target]), np.isin(order, test)


FASHION_CLASSES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip


def fashion_mnist_folder() -> Path:
    """Where Fashion-MNIST lies: `$JEPAKIT_DATA/fashion-mnist`, else where the Debian package puts it."""
    places = [Path("/usr/share/datasets/fashion-mnist")]
    if os.environ.get("JEPAKIT_DATA"):
        places.insert(0, Path(os.environ["JEPAKIT_DATA"]) / "fashion-mnist")
    for place in places:
        if place.is_dir() and ("train", "images") in find_idx(place):
            return place
    raise UserError(
        f"fashion-mnist was not found in {' or '.join(map(str, places))}. Install the Debian package "
        "dataset-fashion-mnist (apt install dataset-fashion-mnist), set JEPAKIT_DATA to the folder that holds "
        "fashion-mnist/, or point --data to a folder with the four idx files."
    )


def _first(path: Path, keys: list[str], names: tuple[str, ...]) -> str | None:
    found = [key for name in names for key in keys if key.lower() == name]
    if len({key.lower() for key in found}) < len(found):
        raise UserError(f"{path} holds {' and '.join(map(repr, found))}: names that differ in their case alone. Remove one.")
    return found[0] if found else None


def _layout(shape: tuple[int, ...]) -> str:
    if len(shape) not in (3, 4) or 0 in shape:
        raise UserError(
            f"An array of shape {shape} is not a set of pictures: expected [n, height, width], "
            "[n, height, width, channels] or [n, channels, height, width], with at least one picture."
        )
    if len(shape) == 3:
        if shape[2] in (1, 3) and shape[1] > 3:
            raise UserError(f"An array of shape {shape} looks like one picture. Several are needed: [n, h, w, c].")
        return "nhw"
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first and last and shape[1:] != (1, 1, 1):
        raise UserError(f"An array of shape {shape} may be [n, c, h, w] or [n, h, w, c]; pad it so that one fits.")
    if not first and not last:
        raise UserError(f"An array of shape {shape} has neither 1 nor 3 channels on axis 1 or 3 (drop alpha).")
    return "nchw" if first else "nhwc"


def _height_width(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[2], shape[3]) if _layout(shape) == "nchw" else (shape[1], shape[2])


def _value_range(arrays: list[NDArray], given: tuple[float, float] | None) -> tuple[float, float] | None:
    """The values that become 0 and 1; None: pixels are kept. Errors: pixels that are no real numbers, NaN, infinite."""
    for array in arrays:
        if array.dtype.kind not in "buif":
            raise UserError(f"Pictures of type {array.dtype} are not understood; expected integers or real numbers.")
    kinds = {array.dtype.newbyteorder("=") for array in arrays}
    if given is None and kinds == {np.dtype(np.uint8)}:
        return None
    if given is None and kinds == {np.dtype(np.uint16)}:
        return 0.0, 65535.0
    if given is not None and all(kind.kind != "f" for kind in kinds):
        return given
    low, high = np.inf, -np.inf
    for array in arrays:
        for start in range(0, len(array), 256):  # piece by piece: the array may be larger than the memory
            piece = np.asarray(array[start : start + 256])
            finite = np.isfinite(piece).reshape(len(piece), -1).all(axis=1)
            if not finite.all():
                raise UserError(
                    f"Picture {start + int(np.argmin(finite))} of the array holds NaN or infinite pixels. "
                    "Replace them or leave the picture out."
                )
            low, high = min(low, float(piece.min())), max(high, float(piece.max()))
    if given is not None:
        return given
    if low >= 0.0 and high <= 1.0:
        return 0.0, 1.0
    if not math.isfinite(high - low):
        raise UserError(f"Pixels from {low:g} to {high:g} have no range that can be computed with. Give --value-range.")
    return low, high if high > low else low + 1.0
