"""Reads tables, `.csv` and `.tsv`, row by row; every complaint names its line."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jepakit.errors import UserError
from jepakit.files import read_text


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The place (for messages) and the cells by column of each row that is not empty; the first is the header.

    Raises:
        UserError: no such file, not UTF-8, a row with more or fewer cells than the header, a column twice, broken quotes.
    """
    # Cells may hold line breaks in quotes, so that a row's number is its last line's. Strict: an open quote is an error.
    reader = csv.reader(
        io.StringIO(read_text(path)), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True
    )
    header: list[str] | None = None
    try:
        for row in reader:
            place = f"{path}, line {reader.line_num:,}"
            if not any(cell.strip() for cell in row):
                continue
            if header is None:
                header = [cell.strip() for cell in row]
                twice = [name for name, count in Counter(header).items() if name and count > 1]
                if twice:
                    raise UserError(f"{place}: the column {twice[0]!r} stands twice. Rename or remove one.")
            elif len(row) != len(header):
                raise UserError(
                    f"{place} has {len(row)} cells, the header {len(header)}. Quote cells that hold the separator."
                )
            else:
                yield place, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num:,} is not a table: {error}. Check its quotes.") from error
