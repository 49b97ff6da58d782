"""Reads Hugging Face `datasets`: an object in memory or a folder of `save_to_disk`. Needs `jepakit[datasets]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jepakit.errors import UserError, missing_extra
from jepakit.modalities.files.names import Names
from jepakit.modalities.images.collection import Collection, ImageDataConfig
from jepakit.modalities.images.survey import survey_files
from jepakit.modalities.labels import Labels, array_labels, class_names, multilabel

if TYPE_CHECKING:
    import datasets

_TEST_SPLITS = ("test", "validation", "valid", "val")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")


class EncodedColumn(Sequence[str | bytes]):
    """The image column of one or two data sets, as file contents (or paths), not decoded."""

    def __init__(self, parts: Sequence[datasets.Dataset], column: str):
        self._parts, self._column = list(parts), column
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: Any) -> Any:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        cell = self._parts[part][int(index - self._starts[part])][self._column]
        if cell is None:
            return b""  # no picture in this row: reported as a bad file
        return cell["bytes"] if cell["bytes"] is not None else cell["path"]


def read_hugging_face(config: ImageDataConfig, source: object | None) -> Collection:
    """A collection from `source`, or from the folder of `config.data` ("hf:PATH")."""
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("datasets", "datasets", "Reading a Hugging Face data set") from error
    if source is None:
        path = config.data.removeprefix("hf:")
        try:
            source = datasets.load_from_disk(path)
        except (OSError, ValueError) as error:
            raise UserError(f"data: {path} is not a data set written by save_to_disk: {error}. Check the path.") from error
    if config.group_by is not None:
        raise UserError("group_by is not available for Hugging Face data sets. Give a DatasetDict with train and test.")
    parts = _parts(source, datasets)
    column = _image_column(parts[0].features, datasets)
    encoded = [part.with_format(None).select_columns([column]) for part in parts]
    encoded = [part.cast_column(column, datasets.Image(decode=False)) for part in encoded]
    files = EncodedColumn(encoded, column)
    names = Names.of(
        f"row {row:,} of {split}" for split, part in zip(("train", "test"), parts, strict=False) for row in range(len(part))
    )
    if not len(names):
        raise UserError(f"data: {config.data} has no rows.")
    survey = survey_files(files, names, config)
    labels = None if config.labels == "none" else _labels(parts, datasets)
    if labels is not None:
        labels.values = labels.values[survey.good]
    test = np.arange(len(names))[survey.good] >= len(parts[0]) if len(parts) == 2 else None
    return replace(survey.collection(config.data, "hf"), labels=labels, test=test)


def _parts(source: Any, datasets: Any) -> list[datasets.Dataset]:
    if isinstance(source, datasets.Dataset):
        return [source]
    if not isinstance(source, datasets.DatasetDict):
        raise UserError(f"data: expected a datasets.Dataset or DatasetDict, got {type(source).__name__}.")
    if len(source) == 1:
        return list(source.values())
    test = next((name for name in _TEST_SPLITS if name in source), None)
    if "train" not in source or test is None:
        expected = f"expected 'train' and one of {', '.join(_TEST_SPLITS)}"
        raise UserError(f"data: the splits are {', '.join(source)}; {expected}.")
    return [source["train"], source[test]]


def _image_column(features: Any, datasets: Any) -> str:
    columns = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(columns) != 1 and "image" not in columns:
        found = f"several columns of images: {columns}" if columns else f"no column of images among {list(features)}"
        raise UserError(f"data: {found}. One must be of the type datasets.Image, and named 'image' if there are more.")
    return columns[0] if len(columns) == 1 else "image"


def _labels(parts: Sequence[Any], datasets: Any) -> Labels | None:
    features = parts[0].features
    typed = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    column = next((name for name in (*typed, *_LABEL_COLUMNS) if name in features), None)
    if column is None:
        return None
    cells = [cell for part in parts for cell in part.with_format(None)[column]]
    if any(cell is None for cell in cells):
        raise UserError(f'data: the column {column!r} has empty cells. Remove those rows or ignore labels with "none".')
    feature = features[column]
    if isinstance(feature, datasets.ClassLabel):
        if min(cells) < 0:
            raise UserError(f'data: the column {column!r} holds -1 (no label). Ignore labels with "none".')
        return Labels(np.array(cells, dtype=np.int64), "classification", list(feature.names))
    if isinstance(cells[0], list):
        inner = feature.feature if hasattr(feature, "feature") else feature[0]
        return multilabel([[inner.int2str(n) if hasattr(inner, "int2str") else str(n) for n in cell] for cell in cells])
    return class_names(cells) if isinstance(cells[0], str) else array_labels(np.array(cells))
