"""Labels of pictures: from sub-folders, from a CSV, or from an array, and what kind of task they make.

| labels given as | task |
|---|---|
| names or whole numbers | classification |
| numbers with a fraction | regression |
| several names with `;` between (column `labels`), or a 0/1 matrix | multilabel |
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError, did_you_mean
from jepakit.modalities.files.tables import read_rows

Task = Literal["classification", "multilabel", "regression"]

_PATH_COLUMNS = ("path", "file", "filename", "image")
_LABEL_COLUMNS = ("label", "class", "target")


@dataclass
class Labels:
    """Labels of all pictures: `values` `[n]` int64 (classes), `[n]` or `[n, k]` float64, or `[n, k]` of 0 and 1."""

    values: NDArray
    task: Task
    classes: list[str] | None = None


@dataclass
class Table:
    """A label file: one row for each picture, in the order of the pictures; columns by name."""

    columns: dict[str, list[str]]
    name: str

    def labels(self) -> Labels | None:
        """The labels it holds; None when it has no label column (only groups, for instance)."""
        if "labels" in self.columns:
            return multilabel([cell.split(";") for cell in self.columns["labels"]])
        for column in _LABEL_COLUMNS:
            if column in self.columns:
                return _parse(self.columns[column], f"column {column!r} of {self.name}")
        return None

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Table:
        return Table({name: [cells[row] for row in rows] for name, cells in self.columns.items()}, self.name)

    def groups(self, column: str) -> list[str]:
        if column.lower() not in self.columns:
            raise UserError(
                f"group_by: {self.name} has no column {column!r}. {did_you_mean(column, self.columns)} "
                "A part of the path is given as path:0, path:1, ..."
            )
        return self.columns[column.lower()]


def folder_labels(paths: Sequence[str]) -> Labels | None:
    """Classes from the first part of each relative path; None unless all pictures are in one of two or more folders."""
    parts = [path.split("/") for path in paths]
    names = sorted({part[0] for part in parts})
    if len(names) < 2 or any(len(part) < 2 for part in parts):
        return None
    return class_names([part[0] for part in parts])


def told_labels(cells: Sequence[str], names: Sequence[str]) -> Labels | None:
    """Labels that came beside each picture; None where none did. Errors: some pictures have none."""
    empty = next((index for index, cell in enumerate(cells) if not cell), None)
    if empty is None:
        return _parse(list(cells), "the samples")
    if any(cells):
        raise UserError(f'labels: {names[empty]} has no label, others have. Add it, or ignore labels with "none".')
    return None


def class_names(names: Sequence[str]) -> Labels:
    """Classification from names; whole numbers are ordered as numbers."""
    unique = set(names)
    numeric = all(_is_integer(name) for name in unique)
    classes = sorted(unique, key=int) if numeric else sorted(unique)
    number = {name: index for index, name in enumerate(classes)}
    return Labels(np.array([number[name] for name in names], dtype=np.int64), "classification", classes)


def multilabel(lists: Sequence[Sequence[str]]) -> Labels:
    """`[n, k]` of 0 and 1 from lists of names; an empty list means that none applies."""
    sets = [{name.strip() for name in names} - {""} for names in lists]
    classes = sorted(set().union(*sets))
    if not classes:
        raise UserError("The column 'labels' is empty everywhere: write the names that apply, with ';' between them.")
    values = np.array([[name in names for name in classes] for names in sets], dtype=np.int64)
    return Labels(values, "multilabel", classes)


def array_labels(values: NDArray, where: str = "the labels") -> Labels:
    """Labels from an array: whole numbers, names or booleans `[n]`, real numbers `[n]` or several a sample `[n, k]`, or a 0/1
    matrix `[n, k]`; `where` is what errors call it."""
    values = np.asarray(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2 and values.dtype.kind in "biuf" and np.isin(values, (0, 1)).all():
        return Labels(values.astype(np.int64), "multilabel", [str(index) for index in range(values.shape[1])])
    several = values.ndim == 2 and values.dtype.kind == "f"
    if (values.ndim != 1 and not several) or values.dtype.kind not in "biufSU":
        raise UserError(
            f"labels: {where}: shape {values.shape} and type {values.dtype} are not understood; expected [n] whole numbers or "
            "names (classes), [n] or [n, k] real numbers (regression), or [n, k] of 0 and 1 (several labels a picture)."
        )
    if values.dtype.kind == "f":
        return _regression(values.astype(np.float64), where)
    whole = values.dtype.kind in "biu"
    try:
        return class_names([str(int(value)) for value in values] if whole else values.astype(str).tolist())
    except UnicodeDecodeError as error:
        raise UserError(f"labels: {where}: bytes must be ASCII names. Save them as strings (dtype U).") from error


def read_table(path: str, root: Path, pictures: Sequence[str]) -> Table:
    """Read a CSV with a row for each of `pictures` (paths relative to `root`).

    A row names its picture relative to `root`, relative to the CSV's own folder, or by an absolute path.

    Raises:
        UserError: unreadable; no path column; rows twice, rows of pictures that do not exist, pictures without a row.
    """
    read = list(read_rows(Path(path)))
    names = list(read[0][1]) if read else []
    rows = [(place, {name.lower(): cell.strip() for name, cell in row.items() if name}) for place, row in read]
    header = list(rows[0][1]) if rows else []
    if rows and len({name for name in names if name}) > len(header):
        raise UserError(f"labels: {path} has columns that differ in their case alone: {names}. Rename or remove one.")
    key = next((name for name in _PATH_COLUMNS if name in header), None)
    if key is None:
        raise UserError(
            f"labels: {path} has the columns {header} (cells are separated by commas); one of them must be "
            f"{' or '.join(map(repr, _PATH_COLUMNS))}, with the path of each picture relative to the data folder."
        )
    known = {os.path.normpath(root / picture): index for index, picture in enumerate(pictures)}
    positions: list[int] = []
    unknown = []
    for _, row in rows:
        name = row[key]
        found = (known.get(os.path.normpath(base / name)) for base in (root, Path(path).absolute().parent))
        position = next((index for index in found if index is not None), None)
        if position is None:
            unknown.append(name)
        else:
            positions.append(position)
    if unknown:
        raise UserError(
            f"labels: {_some('row', unknown)} no picture under {root}. "
            "Paths are relative to the data folder, with the file's ending; remove rows of pictures that are gone."
        )
    twice = [pictures[index] for index, count in Counter(positions).items() if count > 1]
    if twice:
        raise UserError(f"labels: {path} has more than one row for {_list(twice)}. Keep one.")
    named = set(positions)
    missing = [picture for index, picture in enumerate(pictures) if index not in named]
    if missing:
        raise UserError(
            f"labels: {path} has no row for {_list(missing)}. Add the rows, move the pictures away, or give "
            "--labels none to train without labels."
        )
    columns: dict[str, list[str]] = {name: [""] * len(pictures) for name in header}
    for position, (_, row) in zip(positions, rows, strict=True):
        for name, cell in row.items():
            columns[name][position] = cell
    return Table(columns, path)


def _parse(cells: list[str], where: str) -> Labels:
    empty = [index for index, cell in enumerate(cells) if not cell]
    if empty:
        raise UserError(f"labels: {len(empty)} of {len(cells)} cells in {where} are empty. Fill them in.")
    if all(_is_integer(cell) for cell in cells):
        return class_names(cells)
    if any("_" in cell or not cell.isascii() for cell in cells):  # 1_2 is a name; Python alone reads it as twelve
        return class_names(cells)
    try:
        return _regression(np.array([float(cell) for cell in cells]), where)
    except ValueError:
        return class_names(cells)


def _regression(values: NDArray[np.float64], where: str) -> Labels:
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        raise UserError(f"labels: {where}: value {int(np.argmin(finite))} is NaN or infinite. Remove that picture.")
    return Labels(values, "regression")


def _is_integer(cell: str) -> bool:
    return re.fullmatch("[+-]?[0-9]{1,18}", cell) is not None


def _list(names: Sequence[object]) -> str:
    shown = ", ".join(str(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5:,} more"


def _some(what: str, names: Sequence[object]) -> str:
    return f"{what} {_list(names)} has" if len(names) == 1 else f"{what}s {_list(names)} have"


def label_table(labels: str | None, root: Path, pictures: Sequence[str]) -> Table | None:
    """The label file that the option `labels` names, with a row for each of `pictures`; None where it names none."""
    if labels in (None, "none"):
        return None
    assert labels is not None
    if not labels.lower().endswith((".csv", ".tsv")):
        raise UserError(f'labels: {labels!r} is not understood. Give a .csv or .tsv file, or "none".')
    return read_table(labels, root, pictures)


def groups_of(group_by: str | None, table: Table | None, pictures: Sequence[str]) -> list[str] | None:
    """The group of each picture that the option `group_by` names: a column of the label file, or a part of the path."""
    if group_by is None:
        return None
    if not group_by.startswith("path:"):
        if table is None:
            raise UserError(
                f"group_by: {group_by!r} would be a column of the label file, but --labels names none. "
                "Give --labels FILE.csv, or a part of the path as path:0, path:1, ..."
            )
        return table.groups(group_by)
    part = group_by.removeprefix("path:")
    if not re.fullmatch("[0-9]{1,4}", part):
        raise UserError(f"group_by: {group_by[:80]!r} is not understood; expected path:0, path:1, ...")
    groups = []
    for path in pictures:
        folders = path.split("/")[:-1]
        if len(folders) <= int(part):
            raise UserError(f"group_by: {path} has no folder number {part} (path:0 is the first folder). Give a lower one.")
        groups.append(folders[int(part)])
    return groups
