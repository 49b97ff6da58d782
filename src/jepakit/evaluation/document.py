"""`evaluation.json`: what was measured, question by question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jepakit.errors import UserError
from jepakit.files import read_json, write_json


def add_evaluation(path: Path, found: dict[str, Any]) -> None:
    """Write what was found, and lose nothing of what the file held before.

    To the same question (`question`, of the same data and weights) answers add up: those of an evaluator that was asked again
    are replaced. Other questions' are kept under `earlier`, newest first. A file that cannot be read is put aside.
    """
    before = None
    if path.exists():
        try:
            before = read_json(path)
        except UserError:
            path.replace(path.with_suffix(".unreadable.json"))
    earlier = []
    if isinstance(before, dict) and isinstance(before.get("rows"), list):
        earlier = [before, *before.pop("earlier", [])]
    same = [one for one in earlier if all(one.get(key) == found[key] for key in ("question", "step", "data"))]
    again = {row["evaluator"] for row in found["rows"]}
    for one in same:
        kept = [row for row in one["rows"] if row["evaluator"] not in again]
        commands = dict.fromkeys([*one["command"].split("\n"), found["command"]] if kept else [found["command"]])
        found = {**one, **found, "rows": kept + found["rows"], "command": "\n".join(commands)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**found, "earlier": [one for one in earlier if one not in same]})
