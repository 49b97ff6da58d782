"""The first and the last part of the page: the verdict with its key figures, and what was run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from xml.etree.ElementTree import Element

import yaml

from jepakit.pages.charts import short
from jepakit.pages.data import ReportData, series
from jepakit.pages.markup import missing, tag
from jepakit.pages.results import interval, number
from jepakit.pages.tuning import PROBE, TUNED_MODEL, answer_rows
from jepakit.pages.verdict import Verdict, compare, evaluator_name, is_finite, metric_name, progress, raw_input
from jepakit.registry import verb_of


def _mark(level: str) -> Element:
    sign = {"good": "✓", "mixed": "≈", "bad": "✗", "open": "…"}[level]
    return tag("span", {"class": f"sign {level}", "aria-hidden": "true"}, sign)


def header(data: ReportData, verdict: Verdict) -> Element:
    """Name, verdict, key figures."""
    about = [
        str(part) for part in (data.config.get("system"), (data.evaluation or {}).get("data", {}).get("name")) if part
    ]
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
    comparisons, raw = compare(data.evaluation), raw_input(data.evaluation)
    for row in (data.evaluation or {}).get("rows", ()):
        if row["features"] == "encoder" and is_finite(row["value"]):
            tiles.append(_tile(evaluator_name(row), number(row["value"]), interval(row)))
            for baseline, name in (("random init", "Over random init"), (raw, f"Over raw {raw}")):
                for found in comparisons:
                    if (found.baseline, found.evaluator, found.metric) == (baseline, row["evaluator"], row["metric"]):
                        gain = found.value - found.other
                        says = "intervals overlap" if found.outcome == "open" else "intervals apart"
                        tiles.append(_tile(name, f"{gain:+.3f}".replace("-", "−"), says))
            break
    tiles += _tuning_tiles(data) + _world_tiles(data)
    _, rank = series(data.metrics, "health", "health/rankme")
    if len(rank):
        tiles.append(
            _tile("RankMe", short(rank[-1]), f"of {data.rank_limit} possible" if data.rank_limit else "dimensions")
        )
    steps, _ = series(data.metrics, "train", "loss")
    if len(steps):
        done = progress(data.metrics)
        tiles.append(
            _tile("Steps", f"{int(steps[-1]):,}", "complete" if done is None or done >= 1 else f"{done:.0%} of the run")
        )
    seconds = data.environment.get("wall_s")
    if is_finite(seconds):
        tiles.append(_tile("Wall time", _duration(float(seconds)), str(data.environment.get("device", ""))))
    return tiles


def _tuning_tiles(data: ReportData) -> list[Element]:
    """The tuned model's score, and what it has over a probe of the frozen encoder."""
    main = {row["features"]: row for row in reversed(answer_rows(data.evaluation))}  # the main metric comes first
    if not {TUNED_MODEL, PROBE} <= main.keys():
        return []
    ours, probe = main[TUNED_MODEL], main[PROBE]
    gain = f"{ours['value'] - probe['value']:+.3f}".replace("-", "−")
    return [
        _tile(metric_name(ours), number(ours["value"]), interval(ours)),
        _tile("Over the frozen probe", gain, "on held-out samples"),
    ]


def _world_tiles(data: ReportData) -> list[Element]:
    """Success beside acting at random, and how far imagination stays better than standing still."""
    tiles = []
    acting = data.acting or {}
    rows, planner = acting.get("rows", {}), acting.get("planner", {}).get("name")
    if planner in rows:
        row, other = rows[planner], rows.get("random")
        beside = f", at random {other['success']:.0%}" if other else ""
        tiles.append(_tile("Goals reached", f"{row['success']:.0%}", f"{row['low']:.0%} – {row['high']:.0%}{beside}"))
    curves = ((data.evaluation or {}).get("world_model") or {}).get("rollout", {}).get("curves", {})
    if {"model", "nothing moves"} <= curves.keys():
        ours, still = curves["model"]["error"], curves["nothing moves"]["error"]
        number = len(ours)
        tiles.append(_tile(f"Error after {number} actions", short(ours[-1]), f"nothing moves: {short(still[-1])}"))
    return tiles


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def what_was_run(data: ReportData) -> list[Element]:
    """Command, environment, configuration."""
    parts = []
    command = data.environment.get("command")
    verb = verb_of(str(data.config.get("system")))
    again = f"jepakit {verb} --config {shlex.quote((data.folder or data.name).rstrip('/') + '/config.yaml')}"
    if command == "python":
        parts.append(tag("p", {"class": "lead"}, "The run was started from Python, not by a command."))
    elif command:
        parts += [
            tag("p", {"class": "lead"}, "The command of this run:"),
            tag("pre", {"class": "command"}, str(command)),
        ]
    parts += [tag("p", {"class": "lead"}, "The same run from its folder:"), tag("pre", {"class": "command"}, again)]
    evaluated = (data.evaluation or {}).get("command")
    if evaluated:
        parts += [tag("p", {"class": "lead"}, "Its evaluation:"), tag("pre", {"class": "command"}, str(evaluated))]
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
    return (
        yaml.safe_dump(_plain(value), default_flow_style=True).strip() if isinstance(value, list | dict) else str(value)
    )


def _plain(value: object) -> object:
    """Only what YAML knows: tuples become lists, anything unknown its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
