"""Reads pairs of texts from `.jsonl`, `.csv` and `.tsv` files, or from dicts in memory; every complaint names its line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepakit.errors import UserError, did_you_mean
from jepakit.files import parse_json, read_text
from jepakit.modalities.files.tables import read_rows

_ENDINGS = (".jsonl", ".csv", ".tsv")


@dataclass
class Pairs:
    """What was read: the pairs, the place of each (for messages), and its label where a field was named."""

    pairs: list[tuple[str, str]]
    places: list[str]
    labels: list[str] | None
    kind: str


def read_pairs(
    data: str, fields: tuple[str, str], label_field: str | None = None, source: object | None = None
) -> Pairs:
    """Read the two fields (and the label) of each row of the file `data`, or of `source`, a sequence of dicts.

    Raises:
        UserError: no such file, another kind of file, not UTF-8, no rows, a row that is no row, a field that is missing
            or holds no text.
    """
    rows: Iterable[tuple[str, Any]]
    if source is not None:
        if not isinstance(source, Sequence) or isinstance(source, str):
            wanted = f"a sequence of dicts with {fields[0]!r} and {fields[1]!r}"
            raise UserError(f"data: expected {wanted}, got {type(source).__name__}.")
        rows, kind = ((f"row {index:,} of the data", row) for index, row in enumerate(source)), "dicts"
    else:
        path = Path(data)
        if not path.is_file():
            raise UserError(f'data: {data} is not a file. Give a {", ".join(_ENDINGS)} file of pairs, or "regex".')
        kind = path.suffix.lower()[1:]
        if path.suffix.lower() not in _ENDINGS:
            raise UserError(f"data: {data} is not one of {', '.join(_ENDINGS)}: an object a line, or a table with a header.")
        rows = _json_lines(path) if kind == "jsonl" else read_rows(path)
    pairs, places, labels = [], [], []
    for place, row in rows:
        pairs.append((_text(row, fields[0], place), _text(row, fields[1], place)))
        places.append(place)
        if label_field is not None:
            labels.append(_text(row, label_field, place, option="label_field"))
    if not pairs:
        header = " but for its header" if kind in ("csv", "tsv") else ""
        raise UserError(f"data: {data} holds no pairs: it is empty{header}. Give a file with some.")
    return Pairs(pairs, places, labels if label_field is not None else None, kind)


def _text(row: Any, name: str, place: str, option: str = "fields") -> str:
    if not isinstance(row, Mapping):
        raise UserError(f"{place}: expected an object with named fields, got {type(row).__name__}.")
    if name not in row:
        raise UserError(
            f"{place}: there is no field {name!r}. {did_you_mean(name, map(str, row))} "
            f"Name the fields with --{option.replace('_', '-')}."
        )
    value = row[name]
    whole = isinstance(value, int) and not isinstance(value, bool)
    text = str(value) if whole else value
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{place}: the field {name!r} must hold a text, got {value!r}. Fill it in or remove the line.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: the field {name!r} holds half a character ({error.reason}). Replace it.") from error
    return text


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            place = f"{path}, line {number:,}"
            try:
                yield place, parse_json(line)
            except ValueError as error:
                raise UserError(f"{place} is not JSON: {error}. Write one object a line.") from error
