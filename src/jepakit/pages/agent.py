"""An agent on the page: what each cost added to its plans, what it remembered, and when it did not do what it wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from jepakit.pages.charts import short
from jepakit.pages.markup import tag
from jepakit.pages.plots import Curve, curves_chart, legend
from jepakit.pages.verdict import is_finite

_COLOURS = ("f-encoder", "f-pca", "f-raw", "f-supervised", "f-random-init", "f-other")


def agent(found: Mapping[str, Any]) -> list[Element]:
    """Sections of what `act` wrote of an agent; none where no agent acted."""
    task = found.get("task")
    if not isinstance(task, Mapping):
        return []
    judged = found.get("judgements") or {}
    return [*_costs(judged), *_memory(found.get("memory") or {}), *_belief(judged), *_incidents(found)]


def _first(episodes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((one for one in episodes.values() if one.get("steps")), None)


def _array(values: Any) -> np.ndarray:
    return np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)


def _costs(judged: Mapping[str, Any]) -> list[Element]:
    episode = _first(judged)
    if episode is None:
        return []
    steps = _array(episode["steps"])
    curves = [
        Curve(name=name, kind=_COLOURS[number % len(_COLOURS)], x=steps, y=_array(values))
        for number, (name, values) in enumerate(episode["parts"].items())
    ]
    lead = (
        "What each term of the cost adds to the plan that was chosen, its weight included, through the first recorded episode. "
        "A gap: the plan was forbidden."
    )
    chart = curves_chart(curves, label="What each term adds to the cost of the plan", x_label="steps of the environment")
    keys = legend([(curve.name, curve.kind, False) for curve in curves])
    return [tag("h3", "Costs"), tag("p", {"class": "lead"}, lead), tag("figure", {"class": "wide"}, chart, keys)]


def _memory(found: Mapping[str, Any]) -> list[Element]:
    episode = _first(found.get("episodes") or {})
    if episode is None:
        return []
    steps = _array(episode["steps"])
    says = f"{int(found['met']):,} states were met and {int(found['imagined']):,} imagined ones kept beside them. "
    if is_finite(found.get("surprise")) and is_finite(found.get("moved")):
        says += (
            f"What was imagined lay {short(found['surprise'])} from what was then met, on average; a step moves the embedding "
            f"by {short(found['moved'])}. "
        )
    panels = []
    for key, title in (("cost", "Intrinsic cost that was met"), ("surprise", "Surprise: met against imagined")):
        values = _array(episode[key])
        if np.isfinite(values).any():
            curve = Curve(name=title, kind="f-encoder", x=steps, y=values)
            chart = curves_chart([curve], label=title, size=(340.0, 170.0), x_label="steps of the environment")
            panels.append(tag("figure", tag("figcaption", title), chart))
    lead = says + "Below, the first recorded episode as memory holds it."
    return [tag("h3", "Memory"), tag("p", {"class": "lead"}, lead), tag("div", {"class": "multiples"}, panels)]


def _belief(judged: Mapping[str, Any]) -> list[Element]:
    """How likely each future was taken to be; a line each of the first few."""
    episode = _first(judged)
    if episode is None or not episode.get("belief"):
        return []
    steps, shares = _array(episode["steps"]), _array(episode["belief"]).T[: len(_COLOURS)]
    curves = [
        Curve(name=f"z {number}", kind=_COLOURS[number], x=steps, y=share) for number, share in enumerate(shares)
    ]
    lead = (
        "What nothing shows and memory tells: how likely each value of the latent was taken to be, through the first recorded "
        "episode, after what had been met in it."
    )
    chart = curves_chart(curves, label="How likely each value of the latent is", x_label="steps of the environment")
    keys = legend([(curve.name, curve.kind, False) for curve in curves])
    return [tag("h3", "Belief"), tag("p", {"class": "lead"}, lead), tag("figure", {"class": "wide"}, chart, keys)]


def _incidents(found: Mapping[str, Any]) -> list[Element]:
    """Why it rested, how often; zones that were entered; what it was taught."""
    first: Mapping[str, Any] = next(iter(found["rows"].values()), {})
    lines = [f"{int(count):,} times it rested: {reason}." for reason, count in (found.get("incidents") or {}).items()]
    for name, count in (found.get("zones") or {}).items():
        lines.append(f"Zone {name}: really entered in {int(count)} of {int(first.get('episodes', 0))} episodes.")
    taught = found.get("taught")
    if taught:
        lines.append(
            f"From {int(taught['steps']):,} steps a reactive actor was taught, and a critic that foresees the cost "
            f"{int(taught['critic_delay'])} steps ahead with R2 {taught['critic_r2']:.2f} on held-out episodes."
        )
    if not lines:
        lines = ["It never had to rest."]
    return [tag("h3", "Limits"), tag("ul", [tag("li", line) for line in lines])]
