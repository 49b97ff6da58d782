"""The verdict claims what the intervals prove, and nothing else."""

from __future__ import annotations

import math

import pytest

from jepakit.evaluation.document import worded
from jepakit.pages.verdict import compare, evaluator_name, higher_is_better, judge, metric_name, phrase_of, progress

HEALTHY = [{"kind": "health", "step": 50, "health/verdict": "healthy"}]


def rows(metric="accuracy", **measured):
    """`rows(linear={"encoder": (value, half width), ...})`; an underscore in an evaluator's name stands for a dash."""
    return {
        "rows": [
            worded({
                "features": features,
                "evaluator": evaluator.replace("_", "-"),
                "metric": metric,
                "value": value,
                "low": value - half,
                "high": value + half,
            })
            for evaluator, by_features in measured.items()
            for features, (value, half) in by_features.items()
        ]
    }


def table(encoder, random, pixels, half=0.02):
    return {"encoder": (encoder, half), "random init": (random, half), "pixels": (pixels, half)}


@pytest.mark.parametrize(
    ("evaluation", "level", "words"),
    [
        (
            rows(low_shot_5=table(0.9, 0.8, 0.83)),
            "good",
            "Healthy: beats random init and raw pixels at 5 labels a class.",
        ),
        (
            rows(low_shot_5=table(0.8, 0.7, 0.88)),
            "mixed",
            "Learned, but raw pixels are still better (0.800 against 0.880",
        ),
        (rows(low_shot_5=table(0.8, 0.7, 0.81)), "mixed", "not told apart from raw pixels"),
        (rows(low_shot_5=table(0.71, 0.7, 0.5)), "mixed", "No proof of learning"),
        (rows(low_shot_5=table(0.6, 0.7, 0.5)), "bad", "Worse than random init: 0.600 against 0.700"),
        (rows(linear={"encoder": (0.9, 0.01)}), "open", "no baseline was measured"),
        (rows(linear={"encoder": (0.9, 0.01), "pixels": (0.5, 0.01)}), "open", "Random init was not measured"),
        (
            rows(linear={"encoder": (0.9, 0.01), "random init": (0.5, 0.01)}),
            "mixed",
            "beats random init with a linear probe. Raw pixels were not measured.",
        ),
        (
            rows(low_shot_5=table(0.9, 0.8, 0.83), linear=table(0.9, 0.8, 0.97)),
            "mixed",
            "beats raw pixels at 5 labels a class, but they are still better with a linear probe",
        ),
        (
            rows(low_shot_5=table(0.9, 0.8, 0.83), linear=table(0.9, 0.95, 0.83)),
            "mixed",
            "Better than random init at 5 labels a class, but worse with a linear probe",
        ),
        (
            rows(low_shot_5=table(0.9, 0.8, 0.83), knn_20=table(0.9, 0.8, 0.83)),
            "good",
            "beats random init and raw pixels in all 2 measures",
        ),
        (
            rows(low_shot_5=table(0.9, 0.8, 0.83), knn_20=table(0.9, 0.8, 0.89)),
            "good",
            "beats random init in all 2 measures, and raw pixels at 5 labels a class.",
        ),
    ],
)
def test_headlines(evaluation, level, words):
    verdict = judge(HEALTHY, evaluation)
    assert verdict.level == level
    assert words in verdict.headline


def test_touching_intervals_prove_nothing():
    touching = rows(linear={"encoder": (0.75, 0.125), "random init": (0.5, 0.125)})  # 0.625 is in both
    assert [c.outcome for c in compare(touching)] == ["open"]
    assert "No proof of learning" in judge([], touching).headline


@pytest.mark.parametrize("bound", [None, math.nan])
def test_no_interval_no_claim(bound):
    evaluation = rows(linear=table(0.9, 0.1, 0.1))
    evaluation["rows"][0]["low"] = bound
    assert {c.outcome for c in compare(evaluation)} == {"open"}


def test_smaller_errors_are_better():
    evaluation = rows(metric="mae", linear=table(1.0, 3.0, 0.5, half=0.1))
    assert {c.baseline: c.outcome for c in compare(evaluation)} == {"random init": "above", "pixels": "below"}
    assert "raw pixels are still better" in judge([], evaluation).headline


def test_only_the_same_evaluator_and_metric_are_compared():
    evaluation = rows(linear={"encoder": (0.9, 0.01)}, knn_20={"random init": (0.5, 0.01)})
    evaluation["rows"] += rows(metric="balanced_accuracy", linear={"random init": (0.1, 0.01)})["rows"]
    assert compare(evaluation) == []


def test_what_the_headline_leaves_out_is_noted():
    measured = table(0.9, 0.8, 0.89) | {"pca": (0.95, 0.01), "supervised": (0.99, 0.01)}
    notes = " ".join(judge(HEALTHY, rows(linear=measured)).notes)
    assert "No claim against raw pixels with a linear probe" in notes
    assert "PCA of pixels is better: 0.900 against 0.950" in notes
    assert "stands below supervised training of the same encoder (0.900 against 0.990" in notes


def health(*states):
    return [
        {"kind": "health", "step": 10 * (i + 1), "health/verdict": state, "health/message": f"message {i + 1}"}
        for i, state in enumerate(states)
    ]


def test_a_collapse_outranks_good_numbers_and_is_dated_by_its_onset():
    verdict = judge(health("healthy", "collapsed", "collapsed"), rows(linear=table(0.9, 0.8, 0.7)))
    assert (verdict.level, verdict.headline) == ("bad", "Collapsed at step 20: message 2")


def test_a_second_collapse_is_dated_by_itself():
    assert "step 40" in judge(health("healthy", "collapsed", "healthy", "collapsed"), None).headline


def test_a_recovered_collapse_is_a_note():
    verdict = judge(health("collapsed", "healthy"), rows(linear=table(0.9, 0.8, 0.7)))
    assert verdict.level == "good"
    assert "It was collapsed until step 10 and recovered." in verdict.notes


def test_fragmentation_without_a_message_is_explained():
    lines = [{"kind": "health", "step": 5, "health/verdict": "fragmented"}]
    assert judge(lines, None).headline == "Fragmented at step 5: matching pairs are no closer than shuffled ones."


def test_the_line_before_training_is_no_verdict():
    assert judge(health("start"), None).headline == "Nothing to judge yet: no evaluation and no health signals."
    assert judge(health("start", "healthy", "diverged"), None).headline == "Diverged at step 30: message 3"


def test_a_warning_is_told():
    verdict = judge(health("warning"), None)
    assert verdict.level == "mixed"
    assert "Health warning: message 1" in verdict.notes
    assert judge(health("warning"), rows(linear=table(0.9, 0.8, 0.7))).headline.startswith("Learned: ")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_is_dated_by_the_first_bad_loss_of_the_end(bad):
    losses = [1.0, bad, 1.0, bad, bad]
    lines = [{"kind": "train", "step": 10 * i, "loss": loss} for i, loss in enumerate(losses)]
    assert judge(lines, None).headline == "Diverged at step 30: the loss is no longer a number."
    assert judge(lines[:3], None).level == "open"


def test_progress_counts_the_last_line_that_would_be_written_as_the_end():
    def lines(*values):
        return [{"kind": "train", "progress": value} for value in values]

    assert progress([]) is None
    assert progress(lines(0.1, 0.2)) == pytest.approx(0.2)
    assert progress(lines(0.5, 1.0)) == 1.0
    assert progress(lines(0.88, 0.96)) == 1.0
    assert "has not reached its end: 20% is done" in " ".join(judge(lines(0.1, 0.2), None).notes)


def test_a_row_says_what_its_evaluator_and_its_metric_are_called():
    row = {"evaluator": "my-own", "metric": "distance", "heading": "My own", "phrase": "by my own", "higher_is_better": False}
    assert (evaluator_name(row), phrase_of(row), higher_is_better(row)) == ("My own", "by my own", False)
    bare = {"evaluator": "my-own", "metric": "distance"}
    assert (evaluator_name(bare), phrase_of(bare), metric_name(bare)) == ("my-own", "with my-own", "distance")
