"""What the page says of a tuned run."""

from __future__ import annotations

import pytest

from jepakit.evaluation.document import worded
from jepakit.pages.data import ReportData
from jepakit.pages.markup import serialise
from jepakit.pages.page import build_page
from jepakit.pages.tuning import NOTHING, PROBE, SCRATCH, TUNED_MODEL, judge_tuning


def row(features, value, difference=None, metric="accuracy"):
    apart = {} if difference is None else {"difference": dict(zip(("value", "low", "high"), difference, strict=True))}
    return worded({
        "features": features, "evaluator": "answers", "metric": metric, "value": value, "low": value - 0.02,
        "high": value + 0.02, "interval": "95% Wilson over test samples", "detail": apart,
    })  # fmt: skip


def evaluation(difference=(0.1, 0.05, 0.15), scratch=0.7):
    rows = [row(TUNED_MODEL, 0.9), row(PROBE, 0.8, difference), row(NOTHING, 0.1, (0.8, 0.7, 0.9))]
    return {"rows": rows + ([] if scratch is None else [row(SCRATCH, scratch)]), "data": {"name": "things"}}


@pytest.mark.parametrize(
    ("difference", "scratch", "level", "headline"),
    [
        ((0.1, 0.05, 0.15), 0.7, "good", "Tuning gained: 0.900 against 0.800 of a linear probe of the frozen encoder."),
        ((0.1, -0.01, 0.2), 0.7, "mixed", "No proof that tuning gained anything: 0.900 against 0.800"),
        ((-0.1, -0.2, -0.05), 0.7, "bad", "Tuning lost: 0.900 against 0.800"),
        ((0.1, 0.05, 0.15), 0.99, "mixed", "but training from random weights is better still."),
        ((0.1, 0.05, 0.15), None, "good", "Tuning gained"),
    ],
)
def test_the_verdict_claims_what_the_intervals_allow(difference, scratch, level, headline):
    found = judge_tuning(evaluation(difference, scratch))
    assert found.level == level
    assert headline in found.headline
    assert ("was not trained from random weights" in " ".join(found.notes)) == (scratch is None)


def test_the_page_of_a_tuned_run_begins_with_what_it_gained():
    metrics = [
        {"kind": "health", "step": step, "held-out/accuracy": 0.1 * step, "training/accuracy": 0.2 * step, "held-out/loss": 2.0}
        for step in (0, 2, 4)
    ]
    data = ReportData(
        name="tuned", config={"system": "finetuned-images"}, metrics=metrics, evaluation=evaluation(scratch=None)
    )  # fmt: skip
    page = serialise(build_page(data)).decode()
    assert page.index("What tuning gained") < page.index("How training went")
    for text in (
        "Linear probe of the frozen encoder", "Accuracy, held-out samples", "Accuracy, training samples",
        "Over the frozen probe",
        "jepakit evaluate tuned --supervised", "jepakit finetune --config tuned/config.yaml",
    ):  # fmt: skip
        assert text in page, text


def test_other_pages_say_nothing_of_it():
    page = serialise(build_page(ReportData(name="run", config={"system": "i-jepa"}))).decode()
    assert "What tuning gained" not in page
    assert "jepakit pretrain --config" in page
