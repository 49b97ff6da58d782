"""Files written whole or not at all, and the metrics of a run read back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jepakit.errors import UserError

UNFINISHED = ".writing"


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place and move it there: a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    try:
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


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; none when there is no such file yet.

    A last line that a killed run left half-written is dropped. Raises `UserError` when any other line is not JSON.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = [(i, line) for i, line in enumerate(path.read_text("utf-8").splitlines(), 1) if line.strip()]
    read = []
    for number, line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            if number == lines[-1][0]:
                break
            raise UserError(f"{path}, line {number}: not JSON ({error.msg}). Remove that line and try again.") from None
        if isinstance(entry, dict):
            read.append(entry)
    return read
