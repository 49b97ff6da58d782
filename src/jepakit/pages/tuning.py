"""A tuned run on the page: what tuning gained over a probe of the frozen encoder, and how its answers came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from jepakit.evaluation.metrics import METRICS
from jepakit.pages.charts import Whisker, interval_chart, line_chart, short
from jepakit.pages.data import ReportData, series
from jepakit.pages.markup import missing, tag
from jepakit.pages.results import interval, number
from jepakit.pages.verdict import Verdict, is_finite, metric_name

EVALUATOR = "answers"  # of the rows that this page is about
TUNED_MODEL, PROBE, SCRATCH, NOTHING = "tuned", "frozen probe", "from scratch", "always the same"
ABOUT = {
    TUNED_MODEL: "Tuned model",
    PROBE: "Linear probe of the frozen encoder",
    SCRATCH: "The same encoder from random weights",
    NOTHING: "Answering always the same",
}
_KINDS = {TUNED_MODEL: "f-encoder", PROBE: "f-pca", SCRATCH: "f-supervised", NOTHING: "f-random-init"}

Row = Mapping[str, Any]


def answer_rows(evaluation: Mapping[str, Any] | None) -> list[Row]:
    """The rows about a tuned model's answers; none of other runs."""
    found = (evaluation or {}).get("rows", ())
    return [row for row in found if row["evaluator"] == EVALUATOR and is_finite(row["value"])]


def judge_tuning(evaluation: Mapping[str, Any] | None) -> Verdict:
    """Whether tuning gained anything, by the main metric, which comes first: intervals that hold zero prove nothing."""
    rows = answer_rows(evaluation)
    metric = rows[0]["metric"]
    main = {row["features"]: row for row in rows if row["metric"] == metric}
    ours, probe, scratch, nothing = (main.get(name) for name in (TUNED_MODEL, PROBE, SCRATCH, NOTHING))
    if ours is None or probe is None:
        return Verdict(level="open", headline="Nothing to judge yet: the tuned model's answers were not measured.")
    numbers = f"{ours['value']:.3f} against {probe['value']:.3f} of a linear probe of the frozen encoder"
    low, high = _difference(probe)
    notes = []
    if nothing is not None:
        notes.append(f"Answering always the same scores {nothing['value']:.3f}.")
    beaten = False
    if scratch is None:
        notes.append("The same encoder was not trained from random weights for comparison.")
    else:
        beaten = scratch["low"] > ours["high"]
        better = "less than" if scratch["high"] < ours["low"] else "more than" if beaten else "not told apart from"
        notes.append(f"The same encoder trained from random weights scores {scratch['value']:.3f}, {better} the tuned one.")
    if high < 0:
        return Verdict(level="bad", headline=f"Tuning lost: {numbers}.", notes=tuple(notes))
    if low <= 0:
        return Verdict(level="mixed", headline=f"No proof that tuning gained anything: {numbers}.", notes=tuple(notes))
    if beaten:
        headline = f"Tuning gained: {numbers}, but training from random weights is better still."
        return Verdict(level="mixed", headline=headline, notes=tuple(notes))
    return Verdict(level="good", headline=f"Tuning gained: {numbers}.", notes=tuple(notes))


def gained(data: ReportData) -> list[Element]:
    """The answers' scores with intervals, and how loss and score went on held-out and on training samples."""
    rows = answer_rows(data.evaluation)
    parts: list[Element] = []
    if not rows:
        parts.append(missing("The tuned model's answers have not been measured.", data.command("evaluate")))
    for metric in dict.fromkeys(row["metric"] for row in rows):
        chosen = [row for row in rows if row["metric"] == metric]
        chosen.sort(key=lambda row: list(ABOUT).index(row["features"]))
        parts += [tag("h3", metric_name(chosen[0])), _chart(chosen), _table(chosen)]
    if rows:
        notes = "; ".join(dict.fromkeys(str(row.get("interval")) for row in rows))
        parts.append(tag("p", {"class": "note"}, f"On samples that nothing was trained on or chosen by. Intervals: {notes}."))
        if all(row["features"] != SCRATCH for row in rows):
            command = data.command("evaluate") + " --supervised"
            parts.append(missing("The same encoder from random weights does not stand beside it.", command))
    curves = _curves(data)
    if curves:
        parts += [tag("h3", "On the way"), tag("div", {"class": "multiples"}, curves)]
    return parts


def _chart(rows: Sequence[Row]) -> Element:
    ends = [row[key] for row in rows for key in ("value", "low", "high") if is_finite(row.get(key))]
    pad = 0.04 * (max(ends) - min(ends)) or 0.05
    whiskers = [
        Whisker(name=row["features"], kind=_KINDS[row["features"]], value=row["value"], low=row["low"], high=row["high"])
        for row in rows
    ]
    said = "; ".join(f"{w.name} {number(w.value)}" for w in whiskers)
    chart = interval_chart(whiskers, label=f"Answers: {said}", limits=(min(ends) - pad, max(ends) + pad))
    return tag("figure", tag("figcaption", "On held-out samples"), chart)


def _table(rows: Sequence[Row]) -> Element:
    body = []
    for row in rows:
        low, high = _difference(row)
        apart = (row.get("detail") or {}).get("difference", {}).get("value")
        said = f"{apart:+.3f}".replace("-", "−") if is_finite(apart) else "–"
        cell = tag("td", said, tag("small", f"{low:+.3f} – {high:+.3f}".replace("-", "−")) if is_finite(apart) else None)
        name = tag("th", {"scope": "row"}, tag("i", {"class": f"key {_KINDS[row['features']]}"}), ABOUT[row["features"]])
        line = {"class": "ours"} if row["features"] == TUNED_MODEL else None
        body.append(tag("tr", line, name, tag("td", number(row["value"]), tag("small", interval(row))), cell))
    head = tag("tr", [tag("th", {"scope": "col"}, title) for title in ("", "Score", "Tuned minus this, paired")])
    box = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "What tuning gained"}
    return tag("div", box, tag("table", tag("thead", head), tag("tbody", body)))


def _difference(row: Row) -> tuple[float, float]:
    found = (row.get("detail") or {}).get("difference", {})
    return float(found.get("low", float("nan"))), float(found.get("high", float("nan")))


def _curves(data: ReportData) -> list[Element]:
    keys = [key for line in data.metrics if line.get("kind") == "health" for key in line]
    drawn = []
    for key in dict.fromkeys(keys):
        part, _, name = key.partition("/")
        if part not in ("held-out", "training"):
            continue
        x, y = series(data.metrics, "health", key)
        if len(x):
            heading = METRICS[name].heading if name in METRICS else name.capitalize()
            title = f"{heading}, {part} samples"
            label = f"{title}: from {short(y[0])} to {short(y[-1])}"
            drawn.append(tag("figure", tag("figcaption", title), line_chart(x, y, label=label, x_end=float(max(x)))))
    return drawn
