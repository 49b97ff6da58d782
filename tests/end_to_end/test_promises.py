"""Slow guards of what README promises: the demo learns, its negative control is caught, I-JEPA learns without views."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import jepakit
from jepakit.evaluation.rows import Row

pytestmark = pytest.mark.slow


def accuracy(rows: list[Row], features: str, evaluator: str) -> float:
    return next(r.value for r in rows if (r.features, r.evaluator, r.metric) == (features, evaluator, "accuracy"))


def verdicts(folder: Path) -> list[str]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [line["health/verdict"] for line in lines if "health/verdict" in line]


def test_the_demo_beats_pixels_with_five_labels_a_class(tmp_path: Path) -> None:
    run = jepakit.pretrain("lejepa", data="digits", out=tmp_path / "demo")
    learned = accuracy(run.rows, "encoder", "low-shot-5")
    assert learned >= 0.88
    assert learned >= accuracy(run.rows, "pixels", "low-shot-5") + 0.05
    assert run.outcome.verdict == "healthy"
    assert (tmp_path / "demo" / "report.html").stat().st_size > 20_000


def test_the_same_run_without_anti_collapse_is_called_collapsed(tmp_path: Path) -> None:
    run = jepakit.pretrain("lejepa", data="digits", out=tmp_path / "control", anti_collapse="none", stop_on_collapse=True)
    assert run.outcome.ended == "collapsed"
    assert run.outcome.step < 1000
    assert accuracy(run.rows, "encoder", "knn-20") < accuracy(run.rows, "random init", "knn-20")
    assert "Collapsed" in (tmp_path / "control" / "report.html").read_text("utf-8")
