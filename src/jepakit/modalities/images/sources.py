"""From the word a user gives as `data` to a `Collection`: which reader, and what each finds."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError, did_you_mean
from jepakit.modalities.files.names import Names
from jepakit.modalities.files.walk import find_files
from jepakit.modalities.images.arrays import (
    FASHION_CLASSES,
    ArrayImages,
    Arrays,
    digits,
    fashion_mnist_folder,
    find_idx,
    read_arrays,
    read_idx_folder,
)
from jepakit.modalities.images.collection import Collection, ImageDataConfig
from jepakit.modalities.images.decoding import EXTENSIONS
from jepakit.modalities.images.hugging_face import read_hugging_face
from jepakit.modalities.images.shards import is_packed, read_packed
from jepakit.modalities.images.survey import chosen_size, each, survey_files
from jepakit.modalities.images.tar_shards import TarPictures, find_tars, open_tar
from jepakit.modalities.labels import Labels, array_labels, folder_labels, groups_of, label_table, told_labels
from jepakit.modalities.splits import TEST_FOLDERS, TRAIN_FOLDERS, split_folders, split_names

BUILT_IN = ("digits", "fashion-mnist")

def read_source(config: ImageDataConfig, source: object | None = None) -> Collection:
    """The pictures that `config.data` (or `source`) names."""
    if source is not None or config.data.startswith("hf:"):
        return read_hugging_face(config, source)
    if config.data == "digits":
        arrays, test = digits()
        return _from_arrays(config, arrays, "digits", test=test)
    if config.data == "fashion-mnist":
        arrays = read_idx_folder(fashion_mnist_folder())
        return _from_arrays(config, arrays, "fashion-mnist", classes=FASHION_CLASSES)
    if config.data.endswith(".tar") and ("{" in config.data or Path(config.data).expanduser().is_file()):
        return _from_tars(config, find_tars(config.data))
    path = Path(config.data).expanduser()
    if path.is_dir():
        if is_packed(path):
            return read_packed(config, path)
        if find_idx(path):
            return _from_arrays(config, read_idx_folder(path), "idx")
        return _from_folder(config, path)
    if not path.exists():
        nearby = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = did_you_mean(path.name, [*BUILT_IN, *nearby]) if nearby else did_you_mean(config.data, BUILT_IN)
        near = near if near.startswith("Did") else f"Check the path. Built in: {', '.join(BUILT_IN)}."
        raise UserError(f"data: {config.data!r} is neither a path that exists nor a built-in data set. {near}")
    if path.suffix not in (".npy", ".npz"):
        raise UserError(
            f"data: {path} is a file that is not understood. Give a folder of pictures, a .npy or .npz file, a folder "
            f"of idx files, tar shards, or one of {', '.join(BUILT_IN)}. Unpack archives first."
        )
    return _from_arrays(config, read_arrays(path), "array")


def _from_arrays(
    config: ImageDataConfig,
    arrays: Arrays,
    kind: str,
    test: NDArray[np.bool_] | None = None,
    classes: list[str] | None = None,
) -> Collection:
    try:
        pictures = ArrayImages(arrays.images, config.value_range, arrays.path)
    except UserError as error:
        raise UserError(f"{config.data}: {error}") from error
    pictures.channels = config.channels or pictures.stored_channels
    labels = _array_file_labels(config, arrays, len(pictures))
    if labels is not None and classes is not None:
        labels.classes = classes
    if config.group_by is not None:
        raise UserError(f"group_by: the pictures of {config.data} have no paths. Use a folder of image files.")
    if len(arrays.images) == 2:
        test = np.arange(len(pictures)) >= len(arrays.images[0])
    shapes = np.tile(np.array([[pictures.height, pictures.width]], dtype=np.int64), (len(pictures), 1))
    return Collection(
        name=config.data,
        kind=kind,
        pictures=pictures,
        image_size=chosen_size(config, shapes),
        channels=pictures.channels,
        shapes=shapes,
        modes=dict(sum((Counter({str(array.dtype): len(array)}) for array in arrays.images), Counter())),
        labels=labels,
        test=test,
        value_range=pictures.found_range,
    )


def _array_file_labels(config: ImageDataConfig, arrays: Arrays, count: int) -> Labels | None:
    if config.labels == "none":
        return None
    if config.labels is None:
        values = arrays.labels
    elif config.labels.endswith(".npy"):
        values = read_arrays(Path(config.labels)).images
    else:
        raise UserError(
            f"labels: {config.labels!r} does not fit array data. Give a .npy file with one label for each picture, put "
            'the labels into a .npz beside the pictures, or "none".'
        )
    if values is None:
        return None
    try:
        joined = np.concatenate([np.asarray(part) for part in values])
    except ValueError as error:
        raise UserError(f"labels: those of {config.data} do not fit together ({error}). Give one for each picture.") from error
    if len(joined) != count:
        raise UserError(f"labels: {len(joined):,} labels for {count:,} pictures in {config.data}. Give one for each.")
    return array_labels(joined, f"those of {config.data}")


def _from_folder(config: ImageDataConfig, root: Path) -> Collection:
    found, others, closed = find_files(root, EXTENSIONS)
    if closed and (config.on_bad_file == "error" or not found):
        raise UserError(f"data: {closed[0].path}: {closed[0].reason}. Make it readable, or give --on-bad-file skip.")
    if not found:
        if tars := find_tars(str(root)):
            return _from_tars(config, tars)
        raise UserError(_nothing_found(root, others))
    table = label_table(config.labels, root, found)
    split, left_out = split_folders(found)
    chosen = np.array([index for index, side in enumerate(split) if side is not None])
    notes = [f"Files passed over because they are not images: {others:,}."] if others else []
    if left_out:
        notes.append(f"Images not used because they lie outside of {' and '.join(split_names(found))}: {left_out:,}.")
    names = Names.of(found).take(chosen)
    files = names.under(f"{root}{os.sep}")
    survey = survey_files(files, files, config)
    kept = chosen[survey.good]
    relative = names.take(survey.good)
    in_split = [path.split("/", 1)[1] for path in relative] if any(split) else relative
    test = np.array([split[index] == "test" for index in kept]) if any(split) else None
    if table is not None:
        table = table.take(kept)
    labels = None
    if config.labels != "none":
        labels = (table.labels() if table is not None else None) or folder_labels(in_split)
    return replace(
        survey.collection(root.resolve().name, "folder"),
        labels=labels,
        paths=files.take(survey.good),
        relative=relative,
        groups=groups_of(config.group_by, table, relative),
        test=test,
        bad_files=closed + survey.bad,
        notes=notes,
    )


def _from_tars(config: ImageDataConfig, tars: Sequence[Path]) -> Collection:
    indices = list(each(lambda number: open_tar(tars[number]), range(len(tars)), "Indexing tars", few=2))
    files = TarPictures(tars, indices)
    if not len(files):
        raise UserError(f"data: no pictures in {config.data}: a sample is key.jpg (or another image), and key.cls or key.json.")
    names = Names.of(f"{tar.name}/{name}" for tar, index in zip(tars, indices, strict=True) for name in index.names)
    told = Names.of(label for index in indices for label in index.labels)
    table = label_table(config.labels, tars[0].parent, names)
    survey = survey_files(files, names, config)
    relative = names.take(survey.good)
    split = _split_tars(tars)
    labels = None
    if table is not None:
        table = table.take(survey.good)
        labels = table.labels()
    elif config.labels is None:
        labels = told_labels(told.take(survey.good), relative)
    return replace(
        survey.collection(tars[0].name if len(tars) == 1 else Path(config.data).name, "tar"),
        labels=labels,
        paths=relative,
        relative=relative,
        groups=groups_of(config.group_by, table, relative),
        test=None if split is None else np.repeat(split, [len(index.starts) for index in indices])[survey.good],
        shards=np.searchsorted(survey.good, files.ends),
    )


def _split_tars(tars: Sequence[Path]) -> NDArray[np.bool_] | None:
    """True for the tars of the test set, where their names (train-000.tar, val-000.tar) make a split."""
    words = [re.split(r"[^a-z]", tar.name.lower())[0] for tar in tars]
    if not all(word in (*TRAIN_FOLDERS, *TEST_FOLDERS) for word in words) or len(set(words)) < 2:
        return None
    test = np.array([word in TEST_FOLDERS for word in words])
    return test if test.any() and not test.all() else None


def _nothing_found(root: Path, others: int) -> str:
    if (root / "state.json").exists() or (root / "dataset_dict.json").exists():
        return f"data: {root} is a saved Hugging Face data set. Give it as hf:{root}."
    what = f"{others:,} other files" if others else "nothing else"
    return f"data: no image files under {root} ({what} there). Give one with {', '.join(EXTENSIONS)}, in sub-folders or not."
