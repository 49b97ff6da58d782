"""The evaluation on the page: dots with whiskers, and the same numbers as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from jepakit.pages.charts import Whisker, interval_chart, short
from jepakit.pages.data import ReportData
from jepakit.pages.markup import missing, tag
from jepakit.pages.verdict import (
    evaluator_name,
    feature_order,
    heading,
    higher_is_better,
    is_finite,
    metric_name,
    raw_input,
    short_heading,
    spoken,
)


def results(data: ReportData) -> list[Element]:
    """Tables with intervals, and the same as dots with whiskers; below, folded, what else was asked before."""
    evaluation = data.evaluation or {}
    parts = _measured(evaluation)
    if not parts:
        return [missing("The encoder has not been evaluated.", data.command("evaluate"))]
    raw, measured = raw_input(evaluation), {row["features"] for row in _rows(evaluation)}
    absent = [spoken(name, raw) for name in ("random init", raw, "pca") if name not in measured]
    if absent:
        parts.append(missing(f"Not measured: {', '.join(absent)}.", data.command("evaluate")))
    if "supervised" not in measured:
        parts.append(missing("No supervised encoder stands beside it.", data.command("evaluate") + " --supervised"))
    for one in evaluation.get("earlier", ()):
        found = _measured(one)
        if found:
            about = f"Earlier, after {one['step']:,} steps" if isinstance(one.get("step"), int) else "Earlier"
            parts.append(tag("details", tag("summary", f"{about}: {one.get('command', '')}"), found))
    return parts


def _rows(evaluation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in evaluation.get("rows", ()) if is_finite(row["value"]) and row["evaluator"] != "answers"]


def _measured(evaluation: Mapping[str, Any]) -> list[Element]:
    """One evaluation, as dots and as a table for each metric; nothing where it has no rows."""
    rows, about, raw = _rows(evaluation), evaluation.get("data", {}), raw_input(evaluation)
    if not rows:
        return []
    lead = "Frozen features, judged on samples that were never trained on"
    sizes = [f"{about[split]:,} {split}" for split in ("train", "test") if isinstance(about.get(split), int)]
    settings = [evaluation.get(key) for key in ("which", "pooling")]
    lead += f" ({', '.join(sizes)})." if sizes else "."
    lead += f" Encoder: {settings[0]}; pooling: {settings[1]}." if all(settings) else ""
    parts = [tag("p", {"class": "lead"}, lead)]
    for metric in dict.fromkeys(row["metric"] for row in rows):
        chosen = [row for row in rows if row["metric"] == metric]
        parts += [tag("h3", metric_name(chosen[0])), _charts(chosen, raw), _table(chosen, raw)]
    kinds: dict[str, list[str]] = {}
    for row in rows:
        names = kinds.setdefault(str(row.get("interval") or "no interval"), [])
        names.append(evaluator_name(row).lower())
    intervals = "; ".join(f"{kind} ({', '.join(dict.fromkeys(names))})" for kind, names in kinds.items())
    about_them = f"Intervals: {intervals}. Where they overlap, this page claims no difference."
    return [*parts, tag("p", {"class": "note"}, about_them)]


def _feature_order(rows: Sequence[Mapping[str, Any]], raw: str) -> list[str]:
    found = list(dict.fromkeys(row["features"] for row in rows))
    known = feature_order(raw)
    return sorted(found, key=lambda name: known.index(name) if name in known else len(known))


def _feature_class(features: str, raw: str) -> str:
    if features == raw:
        return "f-raw"
    return "f-" + (features.replace(" ", "-") if features in feature_order(raw) else "other")


def _charts(rows: Sequence[Mapping[str, Any]], raw: str) -> Element:
    ends = [row[key] for row in rows for key in ("value", "low", "high") if is_finite(row.get(key))]
    pad = 0.04 * (max(ends) - min(ends)) or 0.05
    limits = (min(ends) - pad, max(ends) + pad)
    order = _feature_order(rows, raw)
    panels = []
    for evaluator in dict.fromkeys(row["evaluator"] for row in rows):
        chosen = sorted(
            (row for row in rows if row["evaluator"] == evaluator), key=lambda r: order.index(r["features"])
        )
        whiskers = [
            Whisker(
                name=short_heading(row["features"], raw),
                kind=_feature_class(row["features"], raw),
                value=row["value"],
                low=row["low"] if is_finite(row.get("low")) else None,
                high=row["high"] if is_finite(row.get("high")) else None,
            )
            for row in chosen
        ]
        said = "; ".join(f"{w.name} {number(w.value)}" for w in whiskers)
        title = evaluator_name(chosen[0])
        panels.append(
            tag("figure", tag("figcaption", title), interval_chart(whiskers, label=f"{title}: {said}", limits=limits))
        )
    return tag("div", {"class": "multiples"}, panels)


def _table(rows: Sequence[Mapping[str, Any]], raw: str) -> Element:
    names = {row["evaluator"]: evaluator_name(row) for row in rows}
    evaluators = list(names)
    cells = {(row["features"], row["evaluator"]): row for row in rows}
    better = max if higher_is_better(rows[0]) else min
    best = {e: better(row["value"] for row in rows if row["evaluator"] == e) for e in evaluators}
    head = tag(
        "tr",
        tag("th", {"scope": "col"}, "Features"),
        [tag("th", {"scope": "col"}, names[e]) for e in evaluators],
    )
    body = []
    for features in _feature_order(rows, raw):
        name = tag(
            "th",
            {"scope": "row"},
            tag("i", {"class": f"key {_feature_class(features, raw)}"}),
            heading(features, raw),
        )
        line = tag("tr", {"class": "ours"} if features == "encoder" else None, name)
        for evaluator in evaluators:
            row = cells.get((features, evaluator))
            if row is None:
                line.append(tag("td", "–"))
                continue
            strong = tag("strong" if row["value"] == best[evaluator] else "span", number(row["value"]))
            line.append(tag("td", strong, tag("small", interval(row))))
        body.append(line)
    # A box that scrolls must take the keyboard's focus to be scrolled without a mouse.
    box = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "Evaluation table"}
    return tag("div", box, tag("table", tag("thead", head), tag("tbody", body)))


def number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else short(value)


def interval(row: Mapping[str, Any]) -> str:
    if is_finite(row.get("low")) and is_finite(row.get("high")):
        return f"{number(row['low'])} – {number(row['high'])}"
    return "no interval"
