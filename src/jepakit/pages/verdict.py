"""One honest sentence about a run, from its health lines and its evaluation: overlapping intervals prove nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from jepakit.pages.data import Metrics

Row = Mapping[str, Any]
Outcome = Literal["above", "below", "open"]

_SICKNESS = {
    "collapsed": "all embeddings are alike.",
    "fragmented": "matching pairs are no closer than shuffled ones.",
    "diverged": "the loss is no longer a number.",
}
SICK = tuple(_SICKNESS)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """level: "good", "mixed", "bad" or "open" (nothing to judge yet); headline: one sentence; notes: additions."""

    level: Literal["good", "mixed", "bad", "open"]
    headline: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The encoder against one baseline under one evaluator. `outcome` is "open" when the intervals overlap."""

    evaluator: str
    phrase: str
    metric: str
    baseline: str
    value: float
    other: float
    outcome: Outcome

    @property
    def numbers(self) -> str:
        return f"{self.value:.3f} against {self.other:.3f} {self.phrase}"


def raw_input(evaluation: Mapping[str, Any] | None) -> str:
    """What the encoder's input is called, and with it the baseline that has no encoder: "pixels", "label counts"."""
    return (evaluation or {}).get("plain", "pixels")


def feature_order(raw: str) -> list[str]:
    """The features of an evaluation in the order in which they are shown."""
    return ["encoder", "random init", raw, "pca", "supervised"]


def spoken(features: str, raw: str) -> str:
    """Features as they stand in a sentence: "raw {raw}", "PCA of pixels"."""
    return {raw: f"raw {raw}", "pca": f"PCA of {raw}", "supervised": "supervised training"}.get(features, features)


def heading(features: str, raw: str) -> str:
    """The same as the heading of a row."""
    name = "supervised" if features == "supervised" else spoken(features, raw)
    return name[:1].upper() + name[1:]


def short_heading(features: str, raw: str) -> str:
    """The same where there is little room."""
    name = heading(features, raw)
    return name if len(name) <= 14 else {raw: "Raw input", "pca": "PCA"}.get(features, name)


def higher_is_better(row: Row) -> bool:
    """The direction of a row's metric, as the row says."""
    return bool(row.get("higher_is_better", True))


def metric_name(row: Row) -> str:
    """The heading of a row's metric: "Mean absolute error (lower is better)"."""
    return str(row.get("metric_heading") or row["metric"])


def evaluator_name(row: Row) -> str:
    """The heading of a row's evaluator: "5 labels a class"."""
    return str(row.get("heading") or row["evaluator"])


def phrase_of(row: Row) -> str:
    """A row's evaluator inside a sentence: "at 5 labels a class", "with a linear probe"."""
    return str(row.get("phrase") or f"with {evaluator_name(row)}")


def compare(evaluation: Mapping[str, Any] | None) -> list[Comparison]:
    """The encoder against every baseline, by evaluator, each on the first metric the encoder was measured with."""
    rows: Sequence[Row] = (evaluation or {}).get("rows", ())
    found = []
    main: dict[str, Row] = {}
    for row in rows:
        if row["features"] == "encoder":
            main.setdefault(row["evaluator"], row)
    for evaluator, ours in main.items():
        for row in rows:
            if row["features"] == "encoder" or (row["evaluator"], row["metric"]) != (evaluator, ours["metric"]):
                continue
            if not (is_finite(ours["value"]) and is_finite(row["value"])):
                continue
            found.append(
                Comparison(
                    evaluator=evaluator,
                    phrase=phrase_of(ours),
                    metric=ours["metric"],
                    baseline=row["features"],
                    value=ours["value"],
                    other=row["value"],
                    outcome=_outcome(ours, row),
                )
            )
    return found


def is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _outcome(ours: Row, other: Row) -> Outcome:
    low, high, other_low, other_high = (row.get(end) for row in (ours, other) for end in ("low", "high"))
    if not (is_finite(low) and is_finite(high) and is_finite(other_low) and is_finite(other_high)):
        return "open"
    if low > other_high:
        return "above" if higher_is_better(ours) else "below"
    if high < other_low:
        return "below" if higher_is_better(ours) else "above"
    return "open"


def judge(metrics: Metrics, evaluation: Mapping[str, Any] | None) -> Verdict:
    """The verdict on a run. A sickness of the health lines comes first, then what the evaluation proves."""
    state, onset, message = _health(metrics)
    comparisons = compare(evaluation)
    raw = raw_input(evaluation)
    notes = [*_side_notes(metrics, state, message), *_left_over(comparisons, raw)]
    if state in SICK:
        headline = f"{state.capitalize()} at step {onset:,}: {message or _SICKNESS[state]}"
        return Verdict(level="bad", headline=headline, notes=tuple(notes))
    level, headline = _learned(comparisons, raw, healthy=state == "healthy")
    if not comparisons:
        encoder = any(row["features"] == "encoder" for row in (evaluation or {}).get("rows", ()))
        headline = {
            (True, "healthy"): "Healthy by its own signals, but no baseline was measured, so nothing is proven.",
            (False, "healthy"): "Healthy by its own signals; whether it learned has not been measured.",
            (True, "warning"): "The health signals warn, and no baseline was measured.",
            (False, "warning"): "The health signals warn; whether it learned has not been measured.",
        }.get((encoder, state), "Nothing to judge yet: no evaluation and no health signals.")
        level = "mixed" if state == "warning" else "open"
    return Verdict(level=level, headline=headline, notes=tuple(notes))


def _health(metrics: Metrics) -> tuple[str, int, str]:
    """The state at the end of the run, the step at which it set in, and the message of that step."""
    losses = [line for line in metrics if line.get("kind") == "train" and isinstance(line.get("loss"), int | float)]
    if losses and not math.isfinite(losses[-1]["loss"]):
        finite = [i for i, line in enumerate(losses) if math.isfinite(line["loss"])]
        return "diverged", int(losses[finite[-1] + 1 if finite else 0]["step"]), ""
    lines = [line for line in metrics if line.get("health/verdict", "start") not in ("start", "unknown")]
    if not lines:
        return "unknown", 0, ""
    state = lines[-1]["health/verdict"]
    first = len(lines) - 1
    while first and lines[first - 1]["health/verdict"] == state:
        first -= 1
    return state, int(lines[first]["step"]), str(lines[first].get("health/message") or "")


def _side_notes(metrics: Metrics, state: str, message: str) -> list[str]:
    notes = []
    if state == "warning" and message:
        notes.append(f"Health warning: {message}")
    past = [line for line in metrics if line.get("health/verdict") in SICK]
    if past and state not in SICK:
        notes.append(f"It was {past[-1]['health/verdict']} until step {past[-1]['step']:,} and recovered.")
    done = progress(metrics)
    if done is not None and done < 1:
        notes.append(f"Training has not reached its end: {done:.0%} is done.")
    return notes


def progress(metrics: Metrics) -> float | None:
    """Share of the training that was done; 1 when the last line is the last that would have been written."""
    found = [line["progress"] for line in metrics if line.get("kind") == "train" and is_finite(line.get("progress"))]
    if not found:
        return None
    gap = found[-1] - found[-2] if len(found) > 1 else 0.0
    return 1.0 if found[-1] + gap > 1 + 1e-9 else min(found[-1], 1.0)


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _where(phrases: Sequence[str], measured: int) -> str:
    if len(phrases) == measured and measured > 1:
        return f"in all {measured} measures"
    return _and(phrases)


def _learned(
    comparisons: Sequence[Comparison], raw: str, healthy: bool
) -> tuple[Literal["good", "mixed", "bad", "open"], str]:
    """Level and headline from the comparisons with random init and the raw input."""

    def against(baseline: str) -> tuple[list[Comparison], list[Comparison], int]:
        found = [c for c in comparisons if c.baseline == baseline]
        return [c for c in found if c.outcome == "above"], [c for c in found if c.outcome == "below"], len(found)

    wins, losses, measured = against("random init")
    raw_wins, raw_losses, raw_measured = against(raw)
    if not measured:
        return "open", "Random init was not measured, so the numbers do not tell whether it learned."
    if losses and not wins:
        return "bad", f"Worse than random init: {losses[0].numbers}."
    if not wins:
        nearest = next(c for c in comparisons if c.baseline == "random init")
        return "mixed", f"No proof of learning: not told apart from random init ({nearest.numbers}; intervals overlap)."
    won = [c.phrase for c in wins]
    if losses:
        worse = _where([c.phrase for c in losses], 0)
        return "mixed", f"Better than random init {_where(won, measured)}, but worse {worse}."
    if not raw_measured:
        return "mixed", f"Learned: beats random init {_where(won, measured)}. Raw {raw} were not measured."
    if raw_losses and not raw_wins:
        return "mixed", f"Learned, but raw {raw} are still better ({raw_losses[0].numbers})."
    beat = [c.phrase for c in raw_wins]
    if raw_losses:
        behind = _where([c.phrase for c in raw_losses], 0)
        return "mixed", f"Learned: beats raw {raw} {_where(beat, 0)}, but they are still better {behind}."
    if not raw_wins:
        nearest = next(c for c in comparisons if c.baseline == raw)
        return "mixed", f"Learned, but not told apart from raw {raw} ({nearest.numbers}; intervals overlap)."
    word = "Healthy" if healthy else "Learned"
    both = [name for name in won if name in beat]
    if len(both) == len(won) == len(beat):
        return "good", f"{word}: beats random init and raw {raw} {_where(both, max(measured, raw_measured))}."
    return "good", f"{word}: beats random init {_where(won, measured)}, and raw {raw} {_where(beat, raw_measured)}."


def _left_over(comparisons: Sequence[Comparison], raw: str) -> list[str]:
    """What the headline leaves out: undecided pairs, PCA, and the distance to supervised training."""
    notes = []
    for baseline in feature_order(raw)[1:]:
        found = [c for c in comparisons if c.baseline == baseline]
        undecided = [c for c in found if c.outcome == "open"]
        if undecided and baseline != "supervised":
            where = _where([c.phrase for c in undecided], len(found))
            notes.append(f"No claim against {spoken(baseline, raw)} {where}: the intervals overlap.")
        if baseline == "pca":
            notes += [f"PCA of {raw} is better: {c.numbers}." for c in found if c.outcome == "below"]
        if baseline == "supervised" and found:
            word = {"above": "beats", "below": "stands below", "open": "is not told apart from"}[found[0].outcome]
            notes.append(f"It {word} supervised training of the same encoder ({found[0].numbers}).")
    return notes
