"""Run one recipe at several seeds and print its table: mean and standard deviation over seeds, baselines beside it.

A recipe is a list of runs; each is `jepakit.pretrain` with options. Finished runs are not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jepakit
from jepakit.evaluation.intervals import wilson


def run(name: str, system: str, seeds: Sequence[int], out: Path, **options: Any) -> list[Path]:
    """Pretrain at each seed into `out/name-seedN`; resume or skip what is there."""
    folders = []
    for seed in seeds:
        folder = out / f"{name}-seed{seed}"
        folders.append(folder)
        if (folder / "evaluation.json").exists():
            continue
        if (folder / "config.yaml").exists():
            jepakit.resume(folder)
        else:
            jepakit.pretrain(system, out=folder, seed=seed, **options)
    return folders


def table(folders: Sequence[Path], evaluators: Sequence[str], features: Sequence[str] = ()) -> str:
    """Markdown: features against evaluators, mean ± standard deviation over the runs; steps and wall seconds below."""
    values: dict[tuple[str, str], list[float]] = {}
    for folder in folders:
        for row in json.loads((folder / "evaluation.json").read_text("utf-8"))["rows"]:
            if row["metric"] in ("accuracy", "r2", "mean_average_precision"):
                values.setdefault((row["features"], row["evaluator"]), []).append(row["value"])
    names = features or list(dict.fromkeys(name for name, _ in values))
    lines = ["| features | " + " | ".join(evaluators) + " |", "|---" * (len(evaluators) + 1) + "|"]
    for name in names:
        cells = [spread(values.get((name, evaluator), [])) for evaluator in evaluators]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    walls = [json.loads((folder / "environment.json").read_text("utf-8"))["wall_s"] for folder in folders]
    verdicts = [verdict(folder) for folder in folders]
    lines.append(f"\n{len(folders)} seeds, training {spread(walls, 0)} s each; health at the end: {', '.join(verdicts)}.")
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean ± standard deviation."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def verdict(folder: Path) -> str:
    """The last health verdict of a run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return next(line["health/verdict"] for line in reversed(lines) if "health/verdict" in line)


def successes(name: str, found: Sequence[dict[str, Any]]) -> str:
    """Markdown: each policy's success over the episodes of all seeds, with its Wilson interval.

    found: of each seed the `rows` that `jepakit.act` returns.
    """
    lines = [f"| {name} | success | 95 % | each seed | CPU s a step |", "|---" * 5 + "|"]
    for policy in found[0]:
        rows = [rows[policy] for rows in found]
        outcomes = [one["success"] for row in rows for one in row["outcomes"]]
        pooled = wilson(sum(outcomes), len(outcomes))
        each, cost = ", ".join(f"{row['success']:.2f}" for row in rows), max(row["cpu_seconds_a_step"] for row in rows)
        lines.append(f"| {policy} | {pooled.value:.2f} | {pooled.low:.3f} to {pooled.high:.3f} | {each} | {cost:.4f} |")
    return "\n".join(lines)


def arguments(about: str, changes: Sequence[str] = ()) -> argparse.Namespace:
    """`--out`, `--seeds`, `--threads` of a recipe, and `--change` of one that can be run with something changed."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=None)
    if changes:
        parser.add_argument("--change", choices=changes, default=changes[0])
    return parser.parse_args()
