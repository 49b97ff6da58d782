"""A world model that acts, on the page: success beside other policies, what planning costs, the landscape a plan lies in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from jepakit.pages.agent import agent
from jepakit.pages.charts import Whisker, interval_chart, short
from jepakit.pages.data import ReportData
from jepakit.pages.markup import missing, tag
from jepakit.pages.plots import cost_chart
from jepakit.pages.verdict import is_finite

_KINDS = {"random": "f-random-init", "oracle": "f-supervised"}


def acting(data: ReportData) -> list[Element]:
    """Success with Wilson intervals, as dots and as a table; latency; the cost landscape."""
    found = data.acting
    if found is None:
        command = f"{data.command('act')} --env two-rooms"
        return [missing("The model has not acted in an environment.", command, "Let it act")]
    rows = {name: row for name, row in found["rows"].items() if is_finite(row["success"])}
    planner = found.get("planner", {})
    counts = sorted({int(row["episodes"]) for row in rows.values()})
    lead = (
        f"{'Episodes' if len(counts) != 1 else f'{counts[0]} episodes'} of {found.get('env', 'an environment')}, each with its "
        "own start and goal, the same for all policies. Success is told by the environment at the end of an episode."
    )
    whiskers = [
        Whisker(name=name, kind=_kind(name, planner), value=row["success"], low=row["low"], high=row["high"])
        for name, row in rows.items()
    ]
    chart = interval_chart(whiskers, label="Success of each policy", limits=(0.0, 1.0), digits=2) if whiskers else None
    titles = ("Policy", "Success", "Mean reward", "Steps", "CPU seconds a step")
    head = tag("tr", [tag("th", {"scope": "col"}, title) for title in titles])
    body = [
        tag(
            "tr",
            {"class": "ours" if name == planner.get("name") else None},
            tag("th", {"scope": "row"}, tag("i", {"class": f"key {_kind(name, planner)}"}), name),
            tag("td", f"{row['success']:.1%}", tag("small", f"{row['low']:.1%} – {row['high']:.1%}")),
            tag("td", _number(row.get("reward"))),
            tag("td", f"{int(row['steps']):,}"),
            tag("td", _number(row.get("cpu_seconds_a_step"))),
        )
        for name, row in rows.items()
    ]
    box = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "Success"}
    settings = ", ".join(f"{key} {value}" for key, value in planner.items() if key != "name" and value is not None)
    took = found.get("plan_s") or {}
    note = f"Bounds: 95 % Wilson. Planner: {planner.get('name', 'unknown')}{f' ({settings})' if settings else ''}."
    if is_finite(took.get("p50")) and is_finite(took.get("p99")):
        note += f" A plan for all environments at once took {short(took['p50'])} s (median; 99 %: {short(took['p99'])} s)."
    return [
        tag("p", {"class": "lead"}, lead),
        tag("figure", {"class": "narrow"}, chart) if chart is not None else tag("p", ""),
        tag("div", box, tag("table", tag("thead", head), tag("tbody", body))),
        tag("p", {"class": "note"}, note),
        *_landscape((found.get("recorded") or {}).get("landscape")),
        *agent(found),
    ]


def _kind(name: str, planner: Mapping[str, Any]) -> str:
    return "f-encoder" if name == planner.get("name") else _KINDS.get(name, "f-pca")


def _number(value: object) -> str:
    return short(value) if is_finite(value) else "–"


def _landscape(found: Mapping[str, Any] | None) -> list[Element]:
    """What it costs to do one action all the time, over two numbers of the action."""
    if not found:
        return []
    cost = np.asarray(found["cost"], dtype=np.float64)
    axes = [np.asarray(axis, dtype=np.float64) for axis in found["axes"]]
    second = axes[1] if len(axes) > 1 else np.zeros(1)
    chosen = (found["chosen"][0], found["chosen"][1] if len(axes) > 1 else 0.0)
    table = cost if len(axes) > 1 else cost.T
    names = ("first number of the action", "second")
    label = "Cost of repeating one action, over two numbers of the action"
    chart = cost_chart(table, axes[0], second, chosen, label=label, names=names)
    lowest = float(np.nanmin(cost)) if np.isfinite(cost).any() else float("nan")
    says = (
        f"From the start of the first episode: what {found['horizon']} steps cost that all do the same. Dark is cheap, the "
        f"ring the cheapest of these ({short(lowest)}); the cross is the first action of the plan, which may change its "
        f"actions on the way and costs {short(float(found['plan_cost']))}."
    )
    return [tag("h3", "Cost landscape"), tag("p", {"class": "lead"}, says), tag("figure", {"class": "small"}, chart)]
