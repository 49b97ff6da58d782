"""The parts of the page, each from `ReportData` to elements; a part that cannot be shown says why and what adds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import yaml

from .charts import Marks, Whisker, colour_class, interval_chart, line_chart, scatter_chart, short
from .data import ReportData, series
from .figures import embedding_map, token_colours
from .health import SIGNALS, Range, Signal
from .markup import tag
from .pictures import colour_map, mask_picture, picture
from .verdict import (
    FEATURE_NAMES,
    Verdict,
    compare,
    evaluator_name,
    higher_is_better,
    is_finite,
    progress,
)

_PICTURED = 8  # images in the token maps and rows of neighbours
_MASKED = 6
_NAMED = 20  # classes with their own colour and shape

_METRICS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "r2": "R²",
    "mae": "Mean absolute error (lower is better)",
    "mse": "Mean squared error (lower is better)",
    "rmse": "Root mean squared error (lower is better)",
    "mean_average_precision": "Mean average precision",
}


def missing(what: str, command: str | None = None) -> Element:
    """A plain sentence in place of a part, with the command that adds it."""
    return tag("p", {"class": "missing"}, what, *([" Add it with ", tag("code", command), "."] if command else []))


def _mark(level: str) -> Element:
    sign = {"good": "✓", "mixed": "≈", "bad": "✗", "open": "…"}[level]
    return tag("span", {"class": f"sign {level}", "aria-hidden": "true"}, sign)


def header(data: ReportData, verdict: Verdict) -> Element:
    """Name, verdict, key figures."""
    about = [str(part) for part in (data.config.get("system"), (data.evaluation or {}).get("data", {}).get("name")) if part]
    return tag(
        "header",
        tag("p", {"class": "eyebrow"}, " · ".join(["jepakit report", *about])),
        tag("h1", data.name),
        tag("p", {"class": f"verdict {verdict.level}"}, _mark(verdict.level), tag("span", verdict.headline)),
        tag("ul", {"class": "notes"}, [tag("li", note) for note in verdict.notes]) if verdict.notes else None,
        tag("dl", {"class": "tiles"}, _tiles(data)),
    )


def _tile(name: str, value: str, detail: str = "") -> Element:
    return tag("div", tag("dt", name), tag("dd", tag("strong", value), tag("small", detail) if detail else None))


def _tiles(data: ReportData) -> list[Element]:
    tiles = []
    comparisons = compare(data.evaluation)
    for row in (data.evaluation or {}).get("rows", ()):
        if row["features"] == "encoder" and is_finite(row["value"]):
            tiles.append(_tile(evaluator_name(row["evaluator"]), _number(row["value"]), _interval(row)))
            for baseline, name in (("random init", "Over random init"), ("pixels", "Over raw pixels")):
                for found in comparisons:
                    if (found.baseline, found.evaluator, found.metric) == (baseline, row["evaluator"], row["metric"]):
                        gain = found.value - found.other
                        says = "intervals overlap" if found.outcome == "open" else "intervals apart"
                        tiles.append(_tile(name, f"{gain:+.3f}".replace("-", "−"), says))
            break
    _, rank = series(data.metrics, "health", "health/rankme")
    if len(rank):
        tiles.append(_tile("RankMe", short(rank[-1]), f"of {data.width} dimensions" if data.width else "dimensions"))
    steps, _ = series(data.metrics, "train", "loss")
    if len(steps):
        done = progress(data.metrics)
        tiles.append(_tile("Steps", f"{int(steps[-1]):,}", "complete" if done is None or done >= 1 else f"{done:.0%} of the run"))
    seconds = data.environment.get("wall_s")
    if is_finite(seconds):
        tiles.append(_tile("Wall time", _duration(float(seconds)), str(data.environment.get("device", ""))))
    return tiles


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else short(value)


def _interval(row: Mapping[str, Any]) -> str:
    if is_finite(row.get("low")) and is_finite(row.get("high")):
        return f"{_number(row['low'])} – {_number(row['high'])}"
    return "no interval"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def results(data: ReportData) -> list[Element]:
    """The table with intervals, and the same as dots with whiskers."""
    rows = [row for row in (data.evaluation or {}).get("rows", ()) if is_finite(row["value"])]
    if not rows:
        return [missing("The encoder has not been evaluated.", data.command("evaluate"))]
    about = (data.evaluation or {}).get("data", {})
    lead = "Frozen features, judged on images that were never trained on"
    sizes = [f"{about[split]:,} {split}" for split in ("train", "test") if isinstance(about.get(split), int)]
    parts = [tag("p", {"class": "lead"}, lead + (f" ({', '.join(sizes)})." if sizes else "."))]
    for metric in dict.fromkeys(row["metric"] for row in rows):
        chosen = [row for row in rows if row["metric"] == metric]
        parts += [tag("h3", _METRICS.get(metric, metric)), _charts(chosen), _table(chosen)]
    kinds: dict[str, list[str]] = {}
    for row in rows:
        names = kinds.setdefault(str(row.get("interval") or "no interval"), [])
        names.append(evaluator_name(row["evaluator"]))
    spoken = "; ".join(f"{kind} ({', '.join(dict.fromkeys(names))})" for kind, names in kinds.items())
    parts.append(tag("p", {"class": "note"}, f"Intervals: {spoken}. Where they overlap, this page claims no difference."))
    measured = {row["features"] for row in rows}
    absent = [FEATURE_NAMES[name].lower() for name in ("random init", "pixels", "pca") if name not in measured]
    if absent:
        parts.append(missing(f"Not measured: {', '.join(absent)}.", data.command("evaluate")))
    if "supervised" not in measured:
        parts.append(missing("No supervised encoder stands beside it.", data.command("evaluate") + " --supervised"))
    return parts


def _feature_order(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = list(dict.fromkeys(row["features"] for row in rows))
    known = list(FEATURE_NAMES)
    return sorted(found, key=lambda name: known.index(name) if name in known else len(known))


def _feature_class(features: str) -> str:
    return "f-" + (features.replace(" ", "-") if features in FEATURE_NAMES else "other")


def _charts(rows: Sequence[Mapping[str, Any]]) -> Element:
    ends = [row[key] for row in rows for key in ("value", "low", "high") if is_finite(row.get(key))]
    pad = 0.04 * (max(ends) - min(ends)) or 0.05
    limits = (min(ends) - pad, max(ends) + pad)
    order = _feature_order(rows)
    panels = []
    for evaluator in dict.fromkeys(row["evaluator"] for row in rows):
        chosen = sorted((row for row in rows if row["evaluator"] == evaluator), key=lambda r: order.index(r["features"]))
        whiskers = [
            Whisker(
                name=FEATURE_NAMES.get(row["features"], row["features"]),
                kind=_feature_class(row["features"]),
                value=row["value"],
                low=row["low"] if is_finite(row.get("low")) else None,
                high=row["high"] if is_finite(row.get("high")) else None,
            )
            for row in chosen
        ]
        said = "; ".join(f"{w.name} {_number(w.value)}" for w in whiskers)
        title = evaluator_name(evaluator)
        panels.append(tag("figure", tag("figcaption", title), interval_chart(whiskers, label=f"{title}: {said}", limits=limits)))
    return tag("div", {"class": "multiples"}, panels)


def _table(rows: Sequence[Mapping[str, Any]]) -> Element:
    evaluators = list(dict.fromkeys(row["evaluator"] for row in rows))
    cells = {(row["features"], row["evaluator"]): row for row in rows}
    better = max if higher_is_better(rows[0]["metric"]) else min
    best = {e: better(row["value"] for row in rows if row["evaluator"] == e) for e in evaluators}
    head = tag("tr", tag("th", {"scope": "col"}, "Features"), [tag("th", {"scope": "col"}, evaluator_name(e)) for e in evaluators])
    body = []
    for features in _feature_order(rows):
        name = tag("th", {"scope": "row"}, tag("i", {"class": f"key {_feature_class(features)}"}), FEATURE_NAMES.get(features, features))
        line = tag("tr", {"class": "ours"} if features == "encoder" else None, name)
        for evaluator in evaluators:
            row = cells.get((features, evaluator))
            if row is None:
                line.append(tag("td", "–"))
                continue
            strong = tag("strong" if row["value"] == best[evaluator] else "span", _number(row["value"]))
            line.append(tag("td", strong, tag("small", _interval(row))))
        body.append(line)
    # A box that scrolls must take the keyboard's focus to be scrolled without a mouse.
    box = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "Evaluation table"}
    return tag("div", box, tag("table", tag("thead", head), tag("tbody", body)))


def curves(data: ReportData) -> list[Element]:
    """Loss terms, health signals with their ranges, and the schedules: small multiples on one axis of steps."""
    steps = [line["step"] for line in data.metrics if "step" in line]
    if not steps:
        return [missing("No metrics were written yet.", data.command("resume"))]
    x_end = float(max(steps))
    event = _event(data)
    terms = list(dict.fromkeys(key for line in data.metrics for key in line if key.startswith("loss/")))
    losses = [_curve(data, "train", "loss", "Loss", "", x_end)]
    losses += [_curve(data, "train", key, _term(key), "", x_end) for key in terms]
    health = [_curve(data, "health", s.key, s.title, s.meaning, x_end, s, event) for s in SIGNALS]
    schedules = [
        _curve(data, "train", key, title, "", x_end)
        for key, title in (
            ("lr", "Learning rate"),
            ("weight_decay", "Weight decay"),
            ("ema", "EMA momentum"),
            ("grad_norm", "Gradient norm"),
        )
    ]
    parts = [
        tag("p", {"class": "lead"}, "The horizontal axis counts optimiser steps and is the same in every chart."),
        tag("h3", "Loss and its terms"),
        _grid(losses) or missing("No loss was written yet.", data.command("resume")),
        tag("h3", "Health"),
    ]
    grid = _grid(health)
    if grid is None:
        parts.append(missing("No health signals were written.", data.command("resume")))
    else:
        parts += [tag("p", {"class": "note"}, tag("i", {"class": "key healthy-key"}), "Shaded: the range read as healthy."), grid]
        if data.width is None:
            parts.append(tag("p", {"class": "note"}, "The width of the embeddings is not known here, so ranks have no range."))
    schedule = _grid(schedules)
    return [*parts, tag("h3", "Schedules"), schedule] if schedule is not None else parts


def _grid(cards: Sequence[Element | None]) -> Element | None:
    shown = [card for card in cards if card is not None]
    return tag("div", {"class": "multiples"}, shown) if shown else None


def _term(key: str) -> str:
    name = key.removeprefix("loss/").replace("_", " ")
    return {"sigreg": "SIGReg", "vicreg": "VICReg", "infonce": "InfoNCE"}.get(name, name[:1].upper() + name[1:])


def _event(data: ReportData) -> tuple[float, str] | None:
    """The first step at which the run was called collapsed or fragmented."""
    for line in data.metrics:
        if line.get("health/verdict") in ("collapsed", "fragmented"):
            return float(line["step"]), str(line["health/verdict"])
    return None


def _curve(
    data: ReportData,
    kind: str,
    key: str,
    title: str,
    meaning: str,
    x_end: float,
    signal: Signal | None = None,
    event: tuple[float, str] | None = None,
) -> Element | None:
    x, y = series(data.metrics, kind, key)
    if not len(x):
        return None
    healthy = signal.healthy(data.width) if signal else None
    levels = (signal.level,) if signal and signal.level else ()
    if key == "health/knn":
        classes = len(data.classes) if data.classes else _class_count(data)
        levels = ((1 / classes, "chance"),) if classes else ()
    state = _state(float(y[-1]), healthy)
    label = f"{title} over {len(x):,} points: from {short(y[0])} to {short(y[-1])}{', ' + state if state else ''}"
    status = tag("span", {"class": "status " + ("good" if state == "in range" else "bad")}, state) if state else None
    bad = int((~np.isfinite(y)).sum())
    first = x[~np.isfinite(y)][0] if bad else 0
    notice = f"{bad:,} value{'s are' if bad > 1 else ' is'} not a number, first at step {int(first):,}." if bad else ""
    return tag(
        "figure",
        tag("figcaption", title, status),
        line_chart(x, y, label=label, x_end=x_end, marks=Marks(healthy=healthy, levels=levels, event=event)),
        tag("p", meaning) if meaning else None,
        tag("p", {"class": "alarm"}, notice) if notice else None,
    )


def _class_count(data: ReportData) -> int:
    classes = (data.evaluation or {}).get("data", {}).get("classes")
    return classes if isinstance(classes, int) else len(classes or ())


def _state(value: float, healthy: Range | None) -> str:
    if healthy is None:
        return ""
    low, high = healthy
    return "in range" if (low is None or value >= low) and (high is None or value <= high) else "out of range"


def hidden(data: ReportData) -> list[Element]:
    """What the masks hid, or for paired systems the views that were compared."""
    if data.images is not None and data.masks and data.grid is not None:
        cells = data.grid[0] * data.grid[1]
        figures = []
        seen, asked = [], []
        for i, (context, targets) in enumerate(data.masks):
            seen.append(len(set(context)) / cells)
            asked.append(len({int(t) for block in targets for t in block}) / cells)
            if i < _MASKED:
                panels = mask_picture(data.images[i], context, targets, data.grid, _caption(data, i))
                figures.append(tag("figure", tag("div", {"class": "three"}, panels), tag("figcaption", _caption(data, i))))
        lead = (
            f"Left the image, in the middle what the context encoder saw (on average {np.mean(seen):.0%} of "
            f"{cells} patches), right the blocks whose embeddings it had to predict ({np.mean(asked):.0%})."
        )
        return [tag("p", {"class": "lead"}, lead), tag("div", {"class": "masks"}, figures)]
    if data.views is not None and data.images is not None:
        rows = []
        for i, views in enumerate(data.views[:_MASKED]):
            shown = [tag("li", picture(v, f"View {j + 1} of {_caption(data, i)}")) for j, v in enumerate(views[:8])]
            rows.append(tag("figure", {"class": "strip"}, tag("div", picture(data.images[i], _caption(data, i))), tag("ol", shown)))
        lead = "This system hides nothing: it compares views. Left the image, then views drawn for one training step."
        return [tag("p", {"class": "lead"}, lead), tag("div", {"class": "strips"}, rows)]
    return [missing("No masks or views were drawn for this page.", data.command("report"))]


def _caption(data: ReportData, i: int) -> str:
    return _label(data, i) or f"Image {i + 1}"


def _label(data: ReportData, i: int) -> str:
    """An image's label in words; empty when there is none."""
    if data.labels is None:
        return ""
    value = np.asarray(data.labels[i])
    if value.ndim:
        names = [_class_name(data, int(j)) for j in np.flatnonzero(value)]
        return ", ".join(names) or "no class"
    if np.issubdtype(value.dtype, np.integer):
        return _class_name(data, int(value))
    return short(float(value))


def _class_name(data: ReportData, number: int) -> str:
    return str(data.classes[number]) if data.classes and 0 <= number < len(data.classes) else f"class {number}"


def colours(data: ReportData) -> list[Element]:
    """PCA of patch tokens as colour maps."""
    if data.images is None or data.tokens is None or data.grid is None:
        return [missing("No patch tokens were computed for this page.", data.command("report"))]
    found = token_colours(data.tokens[:_PICTURED], data.grid)
    if found is None:
        return [missing("All patch tokens are alike, or are not numbers: there is nothing to colour.")]
    pairs = []
    for i, colour in enumerate(found.colours):
        name = _caption(data, i)
        shape = (data.images.shape[2], data.images.shape[3])
        both = [picture(data.images[i], name), colour_map(colour, shape, f"PCA colours of the patch tokens of {name}")]
        pairs.append(tag("figure", tag("div", {"class": "two"}, both), tag("figcaption", name)))
    lead = (
        "The first three principal components of all patch tokens as red, green and blue. Patches of one colour look alike "
        f"to the encoder. The three colours hold {found.explained:.0%} of the tokens' variance."
    )
    return [tag("p", {"class": "lead"}, lead), tag("div", {"class": "pairs"}, pairs)]


def neighbours(data: ReportData) -> list[Element]:
    """Queries with their nearest neighbours; equal labels are marked."""
    if data.images is None or data.neighbours is None or not len(data.neighbours):
        return [missing("No neighbours were computed for this page.", data.command("report"))]
    ranked = data.neighbours
    rows = []
    for query, *others in ranked[:_PICTURED].tolist():
        shown = []
        for other in others[:8]:
            says, kind = _label(data, other), None
            if _has_classes(data):
                kind = "same" if _same(data, query, other) else "other"
                says = ("✓ " if kind == "same" else "✗ ") + says
            alt = f"Neighbour: {_label(data, other) or f'image {other + 1}'}"
            shown.append(tag("li", {"class": kind}, picture(data.images[other], alt), tag("small", says) if says else None))
        query_name = _label(data, query) or "query"
        head = tag("div", picture(data.images[query], f"Query: {query_name}"), tag("small", query_name))
        rows.append(tag("figure", {"class": "strip"}, head, tag("ol", shown)))
    lead = "Left the query, then the held-out images whose embeddings are nearest to it, nearest first."
    if _has_classes(data):
        hits = [_same(data, query, other) for query, *others in ranked.tolist() for other in others]
        lead += f" {sum(hits)} of {len(hits)} share the label of their query (✓)."
    return [tag("p", {"class": "lead"}, lead), tag("div", {"class": "strips"}, rows)]


def _has_classes(data: ReportData) -> bool:
    return data.labels is not None and bool(np.issubdtype(np.asarray(data.labels).dtype, np.integer))


def _same(data: ReportData, one: int, other: int) -> bool:
    assert data.labels is not None
    return bool(np.array_equal(data.labels[one], data.labels[other]))


def flat_map(data: ReportData) -> list[Element]:
    """Embeddings in two dimensions, coloured by class (or by the value's eighth, for regression)."""
    if data.embeddings is None:
        return [missing("No embeddings were computed for this page.", data.command("report"))]
    found = embedding_map(data.embeddings)
    if found is None:
        return [missing("The embeddings are all alike, or are not numbers: there is no map to draw.")]
    groups, names, remark = _groups(data, found.ids)
    caveat = " Who lies beside whom carries meaning; the distances between clusters do not." if found.method == "t-SNE" else ""
    lead = f"{len(found.ids):,} held-out embeddings in two dimensions ({found.method}).{caveat}{remark}"
    chart = scatter_chart(found.points, groups, names, label=f"Map of {len(found.ids)} embeddings by {found.method}")
    legend = []
    for group, name in enumerate(names):
        count = int((groups == group).sum())
        shape = " square" if group >= 10 else ""
        key = tag("i", {"class": f"key {colour_class(group)}{shape}"})
        legend.append(tag("li", key, name, tag("small", f" {count:,}")))
    box = tag("ul", {"class": "legend"}, legend) if legend else None
    return [tag("p", {"class": "lead"}, lead), tag("figure", {"class": "map"}, chart, box)]


def _groups(data: ReportData, ids: np.ndarray) -> tuple[np.ndarray, list[str], str]:
    """Group of each point, the groups' names, and what to say about them."""
    none = np.full(len(ids), -1, dtype=np.int64)
    if data.embedding_labels is None:
        return none, [], " There are no labels, so the points have no colours."
    labels = np.asarray(data.embedding_labels)[ids]
    if labels.ndim > 1:
        return none, [], " Images with several classes each have no single colour."
    if np.issubdtype(labels.dtype, np.integer):
        numbers = np.unique(labels)
        shown = numbers[:_NAMED]
        groups = np.where(np.isin(labels, shown), np.searchsorted(shown, labels), -1)
        rest = f" The first {_NAMED} of {len(numbers)} classes are coloured." if len(numbers) > _NAMED else ""
        return groups.astype(np.int64), [_class_name(data, int(n)) for n in shown], rest
    edges = np.unique(np.quantile(labels[np.isfinite(labels)], np.linspace(0, 1, 9)))
    if len(edges) < 2:
        return none, [], " All labels have one value."
    groups = np.where(np.isfinite(labels), np.clip(np.searchsorted(edges, labels, side="right") - 1, 0, len(edges) - 2), -1)
    names = [f"{short(a)} – {short(b)}" for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return groups.astype(np.int64), names, " Colours are ranges of the label with equally many images."


def what_was_run(data: ReportData) -> list[Element]:
    """Command, environment, configuration."""
    parts = []
    command = data.environment.get("command")
    again = f"jepakit pretrain --config {data.command('x').removeprefix('jepakit x ')}/config.yaml"
    if command:
        parts += [tag("p", {"class": "lead"}, "The command of this run:"), tag("pre", {"class": "command"}, str(command))]
    parts += [tag("p", {"class": "lead"}, "The same run from its folder:"), tag("pre", {"class": "command"}, again)]
    if data.environment:
        rows = [
            tag("tr", tag("th", {"scope": "row"}, str(key)), tag("td", _said(value)))
            for key, value in data.environment.items()
            if key != "command"
        ]
        box = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "Environment"}
        parts.append(tag("div", box, tag("table", {"class": "facts"}, tag("tbody", rows))))
    else:
        parts.append(missing("The environment was not recorded."))
    if data.config:
        text = yaml.safe_dump(_plain(data.config), sort_keys=False, allow_unicode=True)
        parts.append(tag("details", tag("summary", "Configuration"), tag("pre", text)))
    else:
        parts.append(missing("The configuration was not recorded."))
    return parts


def _said(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    return yaml.safe_dump(_plain(value), default_flow_style=True).strip() if isinstance(value, list | dict) else str(value)


def _plain(value: object) -> object:
    """Only what YAML knows: tuples become lists, anything unknown its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
