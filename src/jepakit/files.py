"""Files written whole or not at all, and the metrics of a run read back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jepakit.errors import UserError

UNFINISHED = ".writing"
UNFINISHED_PACKING = ".packing"  # what `jepakit pack` works on until it is whole


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place and move it there: a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        temporary.unlink(missing_ok=True)  # it may be another's link, and what it leads to is not ours to write
        write(temporary)
        os.chmod(temporary, 0o666 & ~_umask())  # safetensors makes its files private
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    # The name of a file need not be text: what UTF-8 has no bytes for becomes \udcff, which JSON reads back.
    write_atomic(path, lambda p: p.write_text(text, encoding="utf-8", errors="backslashreplace"))


def read_text(path: Path) -> str:
    """A text file in UTF-8, without its byte order mark. Errors: not there, not a file, not UTF-8."""
    if not path.is_file():  # a pipe, too, on which reading waits
        what = "is not a file" if path.exists() else "does not exist"
        raise UserError(f"{path} cannot be read: it {what}. Check the path.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}. Save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Make it readable.") from error


def parse_json(text: str) -> Any:
    """A JSON value. Raises `ValueError`: not JSON, nested too deeply, a name twice in one object."""
    try:
        return json.loads(text, object_pairs_hook=_once_each)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def read_json(path: Path) -> Any:
    """The value in a JSON file. Errors: not there, not UTF-8, not JSON, a name twice."""
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON: {error}. Write or copy it again.") from error


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; none when there is no such file yet.

    A last line that a killed run left half-written is dropped. Raises `UserError` when any other line is not JSON.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = [(i, line) for i, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    read = []
    for number, line in lines:
        try:
            entry = parse_json(line)
            if not isinstance(entry, dict) or type(entry.get("step")) is not int:
                raise ValueError("no object with the number of a step")
        except ValueError as error:
            if number == lines[-1][0]:
                break
            raise UserError(f"{path}, line {number}: not a line of metrics ({error}). Remove it and try again.") from None
        read.append(entry)
    return read
