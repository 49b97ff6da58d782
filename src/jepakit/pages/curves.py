"""Training on the page: loss terms, health signals with their ranges, schedules."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

import numpy as np

from jepakit.pages.charts import Marks, line_chart, short
from jepakit.pages.data import ReportData, series
from jepakit.pages.health import SIGNALS, SIGREG_FLOOR, Range, Signal
from jepakit.pages.markup import missing, tag
from jepakit.pages.verdict import SICK, progress


def curves(data: ReportData) -> list[Element]:
    """Loss terms, health signals with their ranges, and the schedules: small multiples on one axis of steps."""
    steps = [line["step"] for line in data.metrics if "step" in line]
    if not steps:
        return [missing("No metrics were written yet.", data.command("resume"), "Continue")]
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
        _grid(losses) or missing("No loss was written yet.", data.command("resume"), "Continue"),
        tag("h3", "Health"),
    ]
    done = progress(data.metrics)
    if done is not None and done < 1:
        parts.insert(1, missing(f"{done:.0%} of the training is done.", data.command("resume"), "Continue"))
    grid = _grid(health)
    if grid is None:
        parts.append(missing("No health signals were written yet.", data.command("resume"), "Continue"))
    else:
        parts += [
            tag("p", {"class": "note"}, tag("i", {"class": "key healthy-key"}), "Shaded: the range read as healthy."),
            grid,
        ]
    schedule = _grid(schedules)
    return [*parts, tag("h3", "Schedules"), schedule] if schedule is not None else parts


def _grid(cards: Sequence[Element | None]) -> Element | None:
    shown = [card for card in cards if card is not None]
    return tag("div", {"class": "multiples"}, shown) if shown else None


def _term(key: str) -> str:
    name = key.removeprefix("loss/").replace("_", " ")
    return {"sigreg": "SIGReg", "infonce": "InfoNCE"}.get(name, name[:1].upper() + name[1:])


def _event(data: ReportData) -> tuple[float, str] | None:
    """The first step at which the run was called sick."""
    for line in data.metrics:
        if line.get("health/verdict") in SICK:
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
    healthy = signal.healthy(data.rank_limit, float(y[0])) if signal else None
    levels = (signal.level,) if signal and signal.level else ()
    if key == "loss/sigreg":
        levels = (SIGREG_FLOOR,)
    if key == "health/knn" and data.single_class and data.classes:
        levels = ((1 / len(data.classes), "chance"),)
    if key == "health/lidar":
        meaning = f"{meaning}{_lidar_sizes(data)}"
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


def _lidar_sizes(data: ReportData) -> str:
    """On what LiDAR was measured, and whether its last value means anything."""
    lines = [line for line in data.metrics if "health/lidar" in line]
    samples, views = lines[-1].get("health/lidar_n"), lines[-1].get("health/lidar_q")
    sizes = f" Measured on {samples} samples in {views} views each." if samples and views else ""
    noise = (
        " The last value is one of noise: no direction tells samples apart."
        if lines[-1].get("health/lidar_noise")
        else ""
    )
    return sizes + noise


def _state(value: float, healthy: Range | None) -> str:
    if healthy is None:
        return ""
    low, high = healthy
    return "in range" if (low is None or value > low) and (high is None or value < high) else "out of range"
