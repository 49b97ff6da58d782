"""`evaluation.json`: what was measured, question by question.

In format 2 every row says what its evaluator and metric are called and whether higher is better. Rows of format 1 stay in the
file as they were written, and are read as if they did.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jepakit.errors import UserError, shown
from jepakit.evaluation.metrics import METRICS
from jepakit.files import read_json, write_json
from jepakit.registry import EVALUATORS, find_evaluator, load_named

FORMAT = 2
ROW = {"features", "evaluator", "metric", "value"}  # what each row says at least


def read_evaluation(path: Path) -> dict[str, Any]:
    """Return a file's document, its rows worded whatever format they were written in.

    Errors: it is no such document, or of a later format.
    """
    document = _read(path)
    for part in (document, *document.get("earlier", [])):
        part["rows"] = [row if "heading" in row else worded(row) for row in part.get("rows", [])]
    return document


def _read(path: Path) -> dict[str, Any]:
    """The document as it was written."""
    document = read_json(path)
    every = [document, *document.get("earlier", [])] if isinstance(document, dict) else [document]
    for part in every:
        rows = part.get("rows", []) if isinstance(part, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= ROW for row in rows):
            raise UserError(f"{path} does not hold what jepakit writes there. Delete it, and evaluate the run again.")
        version = part.get("format", 1)
        if not isinstance(version, int) or not 1 <= version <= FORMAT:
            raise UserError(f"{path}: this jepakit reads evaluations up to format {FORMAT}, not {shown(version)}. Update it.")
    return document


def worded(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of format 1 with what format 2 adds to it: of an evaluator that is not known here its name for words."""
    name = str(row["evaluator"])
    try:
        kind = load_named(EVALUATORS[find_evaluator(name.partition(": ")[0])[0]].place)
        words = {"heading": kind.heading(name), "phrase": kind.phrase(name)}
        metrics = {metric.name: metric for metric in kind.metrics}
    except UserError:
        words, metrics = {"heading": name, "phrase": f"with {name}"}, {}
    metric = metrics.get(row["metric"], METRICS.get(row["metric"]))
    if metric is None:
        return {**words, "metric_heading": str(row["metric"]), "higher_is_better": True, **row}
    return {**words, "metric_heading": metric.heading, "higher_is_better": metric.higher_is_better, **row}


def add_evaluation(path: Path, document: dict[str, Any]) -> None:
    """Write a document, and lose nothing of what the file held before.

    To the same question (`question`, of the same data and weights) answers add up: those of an evaluator that was asked again
    are replaced. Other questions' are kept under `earlier`, newest first. A file that cannot be read is put aside.
    """
    earlier: list[dict[str, Any]] = []
    if path.exists():
        try:
            before = _read(path)
            earlier = [before, *before.pop("earlier", [])]
        except UserError:
            path.replace(path.with_suffix(".unreadable.json"))
    same = [part for part in earlier if all(part.get(key) == document[key] for key in ("question", "step", "data"))]
    again = {row["evaluator"] for row in document["rows"]}
    for part in same:
        kept = [row for row in part["rows"] if row["evaluator"] not in again]
        commands = dict.fromkeys([*part["command"].split("\n"), document["command"]] if kept else [document["command"]])
        document = {**part, **document, "rows": kept + document["rows"], "command": "\n".join(commands)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**document, "earlier": [part for part in earlier if part not in same]})
