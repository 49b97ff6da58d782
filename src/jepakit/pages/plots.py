"""Charts of world models as inline SVG: several lines with bands, paths in a plane, a map of costs. Colours as in `charts`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Float

from jepakit.pages.charts import chart_figure, chart_text, nice_ticks, short
from jepakit.pages.markup import tag

Numbers = Float[np.ndarray, "points"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """A line with a name; `kind` is the CSS class of its colour, `dashed` sets it back. low and high: a band around it."""

    name: str
    kind: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    dashed: bool = False


def curves_chart(
    curves: Sequence[Curve],
    *,
    label: str,
    size: tuple[float, float] = (640.0, 250.0),
    levels: Sequence[tuple[float, str]] = (),
    ceiling: float | None = None,
    x_label: str = "",
) -> Element:
    """Lines over one pair of axes, from 0 or the lowest value up. What lies above `ceiling` leaves the chart at its top."""
    width, height = size
    left, right, top, bottom = 44.0, 10.0, 8.0, 34.0
    drawn = [values for curve in curves for values in (curve.y, curve.low, curve.high) if values is not None]
    finite = [values[np.isfinite(values)] for values in drawn]
    all_y = np.concatenate([np.asarray([level for level, _ in levels]), *finite])
    if not any(len(part) for part in finite):
        return tag("p", {"class": "missing"}, "No value is a number.")
    low, high = min(0.0, float(all_y.min())), float(all_y.max())
    high = high if ceiling is None else min(high, ceiling)
    high += 0.05 * (high - low) or 1.0
    xs = np.concatenate([curve.x for curve in curves])
    x_low, x_high = float(xs.min()), float(xs.max())

    def px(value: float) -> float:
        return left + (width - left - right) * (value - x_low) / ((x_high - x_low) or 1.0)

    def py(value: float) -> float:
        share = min(max((value - low) / (high - low), -0.5), 1.5)
        return height - bottom - (height - top - bottom) * share

    parts: list[Element] = []
    for value in nice_ticks(low, high, 4):
        parts.append(tag("path", {"class": "rule", "d": f"M{left:g} {py(value):.1f}H{width - right:g}"}))
        parts.append(chart_text(left - 6, py(value) + 3.5, short(value), "tick end"))
    parts.append(tag("path", {"class": "axis", "d": f"M{left:g} {height - bottom:g}H{width - right:g}"}))
    for value in nice_ticks(x_low, x_high, 6):
        if value == int(value):
            parts.append(chart_text(px(value), height - bottom + 14, short(value), "tick middle"))
    if x_label:
        parts.append(chart_text((left + width - right) / 2, height - 4, x_label, "tick middle"))
    for value, text in levels:
        parts.append(tag("path", {"class": "level", "d": f"M{left:g} {py(value):.1f}H{width - right:g}"}))
        parts.append(chart_text(left + 4, py(value) - 4, text, "tick over"))
    inside: list[Element] = []
    for curve in curves:
        if curve.low is not None and curve.high is not None:
            there = np.flatnonzero(np.isfinite(curve.low) & np.isfinite(curve.high))
            way = [f"{px(curve.x[i]):.1f} {py(curve.high[i]):.1f}" for i in there]
            way += [f"{px(curve.x[i]):.1f} {py(curve.low[i]):.1f}" for i in there[::-1]]
            if way:
                inside.append(tag("path", {"class": f"shade {curve.kind}", "d": "M" + "L".join(way) + "z"}))
    for curve in curves:
        inside.append(tag("path", {"class": _line_class(curve), "d": _way(curve.x, curve.y, px, py)}, tag("title", curve.name)))
    window = {"x": left - 2, "y": top - 2, "width": width - left - right + 4, "height": height - top - bottom + 4}
    box = " ".join(f"{side:g}" for side in window.values())
    parts.append(tag("svg", {**window, "viewBox": box, "class": "window"}, inside))
    return chart_figure(width, round(height, 1), label, parts)


def plane_chart(
    curves: Sequence[Curve],
    points: Sequence[tuple[str, str, float, float]] = (),
    *,
    label: str,
    limits: tuple[tuple[float, float], tuple[float, float]],
    names: tuple[str, str],
    side: float = 300.0,
) -> Element:
    """Paths through a plane, y downwards as in pictures, with named marks `(name, kind, x, y)`.

    limits: ((lowest, highest) x, (lowest, highest) y); both axes have one scale.
    """
    (x_low, x_high), (y_low, y_high) = limits
    span = max(x_high - x_low, y_high - y_low) or 1.0
    left, bottom, edge = 34.0, 30.0, 8.0
    scale = (side - left - edge) / span
    width = left + edge + scale * (x_high - x_low)
    height = bottom + edge + scale * (y_high - y_low)

    def px(value: float) -> float:
        return left + scale * (min(max(value, x_low - span), x_high + span) - x_low)

    def py(value: float) -> float:
        return edge + scale * (min(max(value, y_low - span), y_high + span) - y_low)

    parts: list[Element] = []
    for value in nice_ticks(x_low, x_high, 4):
        parts.append(tag("path", {"class": "rule", "d": f"M{px(value):.1f} {edge:g}V{height - bottom:.1f}"}))
        parts.append(chart_text(px(value), height - bottom + 13, short(value), "tick middle"))
    for value in nice_ticks(y_low, y_high, 4):
        parts.append(tag("path", {"class": "rule", "d": f"M{left:g} {py(value):.1f}H{width - edge:.1f}"}))
        parts.append(chart_text(left - 5, py(value) + 3.5, short(value), "tick end"))
    parts.append(chart_text((left + width) / 2, height - 4, f"{names[0]} (across), {names[1]} (down)", "tick middle"))
    window = {"x": left, "y": edge, "width": round(width - left - edge, 1), "height": round(height - bottom - edge, 1)}
    box = " ".join(f"{value:g}" for value in window.values())
    lines = []
    for curve in curves:
        way = {"class": _line_class(curve), "d": _way(curve.x, curve.y, px, py)}
        lines.append(tag("path", way, tag("title", curve.name)))
    for name, kind, x, y in points:
        place = {"class": f"mark {kind}", "cx": f"{px(x):.1f}", "cy": f"{py(y):.1f}", "r": "4.5"}
        lines.append(tag("circle", place, tag("title", name)))
    parts.append(tag("svg", {**window, "viewBox": box, "class": "window"}, lines))
    return chart_figure(width, round(height, 1), label, parts)


def cost_chart(
    cost: Float[np.ndarray, "rows columns"],
    x: Float[np.ndarray, "rows"],
    y: Float[np.ndarray, "columns"],
    chosen: tuple[float, float] | None,
    *,
    label: str,
    names: tuple[str, str],
    side: float = 300.0,
) -> Element:
    """Costs as shades, the cheapest the darkest; a ring at the cheapest cell, a cross at what was chosen. y upwards.

    cost: rows are steps of x, columns of y.
    """
    rows, columns = cost.shape
    left, bottom, edge = 40.0, 34.0, 8.0
    width, height = side, (side if columns > 1 else 110.0)
    cell = ((width - left - edge) / rows, (height - bottom - edge) / columns)
    finite = np.isfinite(cost)
    order = np.argsort(np.argsort(np.where(finite, cost, np.inf), axis=None)).reshape(cost.shape)
    share = 1 - order / max(order.max(), 1)
    parts: list[Element] = []
    for i, j in np.argwhere(finite).tolist():
        square = {
            "class": "cost",
            "x": f"{left + i * cell[0]:.2f}",
            "y": f"{edge + (columns - 1 - j) * cell[1]:.2f}",
            "width": f"{cell[0]:.2f}",
            "height": f"{cell[1]:.2f}",
            "fill-opacity": f"{0.04 + 0.9 * share[i, j] ** 2:.2f}",
        }
        parts.append(tag("rect", square))

    def px(value: float) -> float:
        return left + cell[0] * (0.5 + (value - x[0]) / ((x[-1] - x[0]) or 1.0) * (rows - 1))

    def py(value: float) -> float:
        if columns == 1:
            return edge + cell[1] / 2
        return edge + cell[1] * (columns - 0.5 - (value - y[0]) / ((y[-1] - y[0]) or 1.0) * (columns - 1))

    for value in nice_ticks(float(x[0]), float(x[-1]), 4):
        parts.append(chart_text(px(value), height - bottom + 14, short(value), "tick middle"))
    if columns > 1:
        for value in nice_ticks(float(y[0]), float(y[-1]), 4):
            parts.append(chart_text(left - 6, py(value) + 3.5, short(value), "tick end"))
    said = f"{names[0]} (across), {names[1]} (up)" if columns > 1 else names[0]
    parts.append(chart_text((left + width) / 2, height - 4, said, "tick middle"))
    if finite.any():
        i, j = divmod(int(np.argmin(np.where(finite, cost, np.inf))), columns)
        at = f"{px(float(x[i])):.1f}", f"{py(float(y[j]) if columns > 1 else 0.0):.1f}"
        parts.append(tag("circle", {"class": "ring", "cx": at[0], "cy": at[1], "r": "6"}, tag("title", "cheapest")))
    if chosen is not None:
        a, b = px(chosen[0]), py(chosen[1])
        cross = f"M{a - 5:.1f} {b - 5:.1f}l10 10m0 -10l-10 10"
        parts.append(tag("path", {"class": "cross", "d": cross}, tag("title", "first action of the plan")))
    return chart_figure(width, round(height, 1), label, parts)


def legend(entries: Sequence[tuple[str, str, bool]]) -> Element:
    """Names beside short strokes: `(name, kind, dashed)`."""
    items = []
    for name, kind, dashed in entries:
        stroke = tag("i", {"class": f"stroke {kind}{' dashed' if dashed else ''}"})
        items.append(tag("li", stroke, tag("span", name)))
    return tag("ul", {"class": "strokes"}, items)


def _line_class(curve: Curve) -> str:
    return f"line {curve.kind}" + (" dashed" if curve.dashed else "")


def _way(x: Numbers, y: Numbers, px: Callable[[float], float], py: Callable[[float], float]) -> str:
    """Path data that breaks where there is no number."""
    parts, drawing = [], False
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        if not (math.isfinite(a) and math.isfinite(b)):
            drawing = False
            continue
        parts.append(f"{'L' if drawing else 'M'}{px(a):.1f} {py(b):.1f}")
        drawing = True
    return "".join(parts)
