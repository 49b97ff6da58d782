"""From the word a user gives as `data` to a `Collection`: which reader, and what each finds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError, did_you_mean
from jepakit.modalities.image_arrays import (
    FASHION_CLASSES,
    ArrayImages,
    Arrays,
    digits,
    fashion_mnist_folder,
    find_idx,
    read_arrays,
    read_idx_folder,
)
from jepakit.modalities.image_files import (
    EXTENSIONS,
    BadFile,
    FileImages,
    Header,
    Pixels,
    cover_size,
    each_file,
    find_images,
    is_grey,
    read_header,
    read_image,
    with_channels,
)
from jepakit.modalities.image_labels import Labels, Table, array_labels, folder_labels, read_table
from jepakit.modalities.images import Collection, ImageDataConfig

BUILT_IN = ("digits", "fashion-mnist")

_DECODE_FIRST = 20_000
_OWN_SIZE = 64
_DEFAULT_SIZE = (96, 96)
_TRAIN_FOLDERS = ("train", "training")
_TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")


def read_source(config: ImageDataConfig, source: object | None = None) -> Collection:
    """The pictures that `config.data` (or `source`) names."""
    if source is not None or config.data.startswith("hf:"):
        from jepakit.modalities.hugging_face import read_hugging_face

        return read_hugging_face(config, source)
    if config.data == "digits":
        arrays, test = digits()
        return _from_arrays(config, arrays, "digits", test=test)
    if config.data == "fashion-mnist":
        arrays = read_idx_folder(fashion_mnist_folder())
        return _from_arrays(config, arrays, "fashion-mnist", classes=FASHION_CLASSES)
    path = Path(config.data).expanduser()
    if path.is_dir():
        if find_idx(path):
            return _from_arrays(config, read_idx_folder(path), "idx")
        return _from_folder(config, path)
    if not path.exists():
        nearby = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = did_you_mean(path.name, [*BUILT_IN, *nearby]) if nearby else did_you_mean(config.data, BUILT_IN)
        near = near if near.startswith("Did") else f"Built in: {', '.join(BUILT_IN)}."
        raise UserError(f"data: {config.data!r} is neither a path that exists nor a built-in data set. {near}")
    if path.suffix not in (".npy", ".npz"):
        raise UserError(
            f"data: {path} is a file that is not understood. Give a folder of pictures, a .npy or .npz file, a folder of "
            f"idx files, or one of {', '.join(BUILT_IN)}. Unpack archives first."
        )
    return _from_arrays(config, read_arrays(path), "array")


def chosen_size(config: ImageDataConfig, shapes: NDArray[np.int64]) -> tuple[int, int]:
    """`config.image_size`, or the pictures' own size if it is one and small, or 96 x 96."""
    if config.image_size is not None:
        return config.image_size
    height, width = (int(side) for side in shapes[0])
    same = bool((shapes == shapes[0]).all())
    return (height, width) if same and min(height, width) <= _OWN_SIZE else _DEFAULT_SIZE


def refuse_bad_files(bad: Sequence[BadFile], total: int, policy: str) -> None:
    """Under the policy "error", raise `UserError` that lists the first ten bad files."""
    if bad and policy == "error":
        listed = "\n".join(f"  {file.path}: {file.reason}" for file in bad[:10])
        more = f"\n  and {len(bad) - 10:,} more" if len(bad) > 10 else ""
        raise UserError(
            f"{len(bad):,} of {total:,} image files cannot be read:\n{listed}{more}\n"
            "Repair or remove them, or leave them out with --on-bad-file skip."
        )
    if bad and len(bad) == total:
        raise UserError(f"None of the {total:,} image files can be read; the first is {bad[0].path}: {bad[0].reason}.")
