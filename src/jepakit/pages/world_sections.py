"""What a world model knows and foresees, on the page: rollouts by horizon, probes of the state, surprise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from jepakit.pages.charts import Whisker, interval_chart, short
from jepakit.pages.data import ReportData
from jepakit.pages.markup import missing, tag
from jepakit.pages.plots import Curve, curves_chart, legend
from jepakit.pages.verdict import is_finite

# Name in `evaluation.json`: words on the page, colour, dashed.
_ROLLOUTS = {
    "model": ("the model", "f-encoder", False),
    "model, another's actions": ("the model, another window's actions", "f-encoder", True),
    "nothing moves": ("nothing moves", "f-random-init", False),
    "linear": ("a linear model", "f-pca", False),
    "linear, another's actions": ("a linear model, another window's actions", "f-pca", True),
    "true embedding": ("the true embedding", "f-raw", False),
}
_EVENTS = {
    "skips ahead": "time skips ahead: next is what lies a whole window later",
    "another scene": "another scene: next is another episode",
    "frozen": "frozen: nothing moves although something was done",
    "another's action": "another's action: it is told of an action that was not done",
    "reversed action": "reversed action: it is told the opposite of what was done",
}
_FEATURES = {"encoder": "Encoder", "random init": "Random init", "observation": "Raw observation", "pca": "PCA of it"}
_COLOURS = {"encoder": "f-encoder", "random init": "f-random-init", "observation": "f-raw", "pca": "f-pca"}
_CEILING = 2.0  # shares of variance, above which one prediction is as wrong as another


def _found(data: ReportData) -> Mapping[str, Any] | None:
    return (data.evaluation or {}).get("world_model")


def _absent(data: ReportData) -> list[Element]:
    return [missing("This has not been measured.", data.command("evaluate"))]


def _array(values: Sequence[Any]) -> np.ndarray:
    return np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)


def _curve(name: str, x: np.ndarray, error: Any, low: Any = None, high: Any = None) -> Curve:
    words, kind, dashed = _ROLLOUTS.get(name, (name, "f-other", False))
    bounds = [None if bound is None else _array(bound) for bound in (low, high)]
    return Curve(name=words, kind=kind, dashed=dashed, x=x, y=_array(error), low=bounds[0], high=bounds[1])


def rollouts(data: ReportData) -> list[Element]:
    """Error of imagined embeddings by horizon, as curves and as numbers."""
    found = _found(data)
    if found is None:
        return _absent(data)
    rollout = found["rollout"]
    horizons = _array(rollout["horizons"])
    curves = [
        _curve(name, horizons, part["error"], part.get("low"), part.get("high")) for name, part in rollout["curves"].items()
    ]
    lead = (
        "From what it has seen the model imagines what a sequence of actions leads to, each step from the last. Squared "
        "error of the imagined embedding, as a share of the variance of the true ones: at 1 it says no more than their mean. "
        f"{found['windows']['test']} windows of {found['episodes']['test']} held-out episodes."
    )
    label = "Error of imagined embeddings by number of actions"
    chart = curves_chart(curves, label=label, ceiling=_CEILING, levels=((1.0, "the mean"),), x_label="actions imagined")
    keys = legend([(curve.name, curve.kind, curve.dashed) for curve in curves])
    shown = [i for i, horizon in enumerate(rollout["horizons"]) if int(horizon) & (int(horizon) - 1) == 0]
    head = _head("Actions", *(str(rollout["horizons"][i]) for i in shown))
    rows = [
        tag(
            "tr",
            {"class": "ours" if name == "model" else None},
            tag("th", {"scope": "row"}, _ROLLOUTS.get(name, (name,))[0]),
            [tag("td", _said(part["error"][i]), tag("small", _bounds(part, i))) for i in shown],
        )
        for name, part in rollout["curves"].items()
    ]
    note = (
        f"Bands and bounds: {rollout['interval']}. The linear model was fitted on training windows, its penalty chosen for the "
        "rollout."
    )
    return [
        tag("p", {"class": "lead"}, lead), tag("figure", {"class": "wide"}, chart, keys),
        _scrolled("Rollout error", head, rows), tag("p", {"class": "note"}, note), *_imagined_states(found),
    ]  # fmt: skip


def _imagined_states(found: Mapping[str, Any]) -> list[Element]:
    """Error of the states read off imagined embeddings, a chart for each variable."""
    state = found.get("state")
    if not state:
        return []
    horizons = _array(found["rollout"]["horizons"])
    panels = []
    for k, name in enumerate(state["variables"]):
        if not state["varies"][k]:
            continue
        curves = [_curve(way, horizons, errors[k]) for way, errors in state["imagined"]["curves"].items()]
        spread = float(state["spread"][k])
        chart = curves_chart(
            curves, label=f"Error of {name} read off imagined embeddings", size=(340.0, 170.0), ceiling=2 * spread,
            x_label="actions imagined",
        )  # fmt: skip
        panels.append(tag("figure", tag("figcaption", tag("span", name), tag("small", f"deviation {short(spread)}")), chart))
    keys = legend([_ROLLOUTS[way] for way in state["imagined"]["curves"] if way in _ROLLOUTS])
    lead = "The same in the state's own units: mean absolute error of what a linear probe reads off the imagined embeddings."
    return [tag("h3", "Imagined states"), tag("p", {"class": "lead"}, lead), keys, tag("div", {"class": "multiples"}, panels)]


def states(data: ReportData) -> list[Element]:
    """Correlation of each variable of the state with what probes read off one embedding."""
    found = _found(data)
    state = None if found is None else found.get("state")
    if found is None:
        return _absent(data)
    if not state:
        return [missing("The episodes have no states to compare with.")]
    shown = [k for k, varies in enumerate(state["varies"]) if varies]
    head = _head("Read off", "by", *(str(state["variables"][k]) for k in shown))
    best = {k: max((row["r"][k] for row in state["rows"] if is_finite(row["r"][k])), default=None) for k in shown}
    rows = []
    for row in state["rows"]:
        cells = []
        for k in shown:
            value = row["r"][k]
            strong = value is not None and value == best[k]
            number = tag("strong", _said(value)) if strong else tag("span", _said(value))
            cells.append(tag("td", number, tag("small", f"{_bounds(row, k)}, off by {_said(row['error'][k])}")))
        rows.append(
            tag(
                "tr",
                {"class": "ours" if row["features"] == "encoder" else None},
                tag("th", {"scope": "row"}, _key(row["features"]), _FEATURES.get(row["features"], row["features"])),
                tag("td", {"linear": "a line", "network": "a small network"}.get(row["probe"], row["probe"])),
                cells,
            )
        )
    lead = (
        "Pearson's r of the true state with what probes, fitted on training episodes, read off a single embedding; beside it "
        "the same probes on a random encoder and on the observation itself. In small print bounds, and the mean absolute error "
        "in the variable's own unit."
    )
    note = f"Bounds: {state['interval']}. What one observation does not show (a velocity in a picture) cannot be read."
    return [tag("p", {"class": "lead"}, lead), _scrolled("Probes of the state", head, rows), tag("p", {"class": "note"}, note)]


def surprise(data: ReportData) -> list[Element]:
    """How well the prediction error tells impossible events from ordinary ones."""
    found = _found(data)
    if found is None:
        return _absent(data)
    events = found["surprise"]["events"]
    panels = []
    for name, event in events.items():
        whiskers = [
            Whisker(name="model", kind="f-encoder", value=event["auc"], low=event["low"], high=event["high"]),
            Whisker(
                name="change alone", kind="f-random-init", value=event["change"]["auc"], low=event["change"]["low"],
                high=event["change"]["high"],
            ),
        ]  # fmt: skip
        title, _, meaning = _EVENTS.get(name, name).partition(": ")
        times = f" Its median error is {short(float(event['errors'][2]))} times that of an ordinary step."
        chart = interval_chart(whiskers, label=f"Surprise at: {name}", limits=(0.0, 1.0), digits=2)
        says = tag("p", (meaning[:1].upper() + meaning[1:] + "." if meaning else "") + times)
        panels.append(tag("figure", tag("figcaption", tag("span", title)), chart, says))
    lead = (
        "The error of one prediction where what follows cannot be, against what did follow: the probability that the "
        "impossible surprises more (area under the ROC curve; 0.5 tells nothing). Grey: how much the embedding changes, which "
        "needs no model."
    )
    note = f"Bounds: {found['surprise']['interval']}."
    return [tag("p", {"class": "lead"}, lead), tag("div", {"class": "multiples"}, panels), tag("p", {"class": "note"}, note)]


def _key(features: str) -> Element:
    return tag("i", {"class": f"key {_COLOURS.get(features, 'f-other')}"})


def _said(value: object) -> str:
    return (f"{value:.3f}" if abs(value) < 100 else short(value)) if is_finite(value) else "–"


def _bounds(part: Mapping[str, Any], i: int) -> str:
    low, high = part.get("low"), part.get("high")
    return f"{_said(low[i])} – {_said(high[i])}" if low and high and is_finite(low[i]) and is_finite(high[i]) else "no bounds"


def _head(*titles: str) -> Element:
    return tag("tr", [tag("th", {"scope": "col"}, title) for title in titles])


def _scrolled(label: str, head: Element, rows: Sequence[Element]) -> Element:
    box = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": label}
    return tag("div", box, tag("table", tag("thead", head), tag("tbody", rows)))
