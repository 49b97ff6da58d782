"""Charts as inline SVG. Colours are CSS variables, so that they follow the page into the dark and onto paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Float, Int

from jepakit.pages.markup import tag

Line = Float[np.ndarray, "points"]

_WIDTH, _HEIGHT = 340.0, 150.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 46.0, 10.0, 22.0
_SMOOTH_FROM = 60  # shorter curves are drawn as they are


def short(value: float) -> str:
    """A number in at most about six characters: 0.0012, 1.2e-05, 43.1, 12k."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 10_000:
        for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if size >= limit:
                return f"{value / limit:.3g}{unit}" if size < 1000 * limit else f"{value:.1e}"
    if size != 0 and size < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e")
    return f"{value:.3g}" if size < 1000 else f"{value:.0f}"


def nice_ticks(low: float, high: float, count: int = 3) -> list[float]:
    """About `count` round numbers inside [low, high], at least one (steps of 1, 2, 2.5 or 5 times a power of ten)."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [m * power for m in (1, 2, 2.5, 5, 10, 20)]
    step = min(steps, key=lambda s: abs(math.floor(high / s) - math.ceil(low / s) + 1 - count))
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def thin(x: Line, y: Line, limit: int = 400) -> tuple[Float[np.ndarray, "kept"], Float[np.ndarray, "kept"]]:
    """At most `limit` points that keep every bucket's lowest and highest value, the two ends, and gaps at NaN."""
    if len(x) <= limit:
        return x, y
    finite = np.isfinite(y)
    buckets = (limit - 2) // (2 if finite.all() else 3)
    keep = {0, len(x) - 1}
    for part in np.array_split(np.arange(len(x)), buckets):
        good = part[finite[part]]
        if len(good):
            keep |= {int(good[np.argmin(y[good])]), int(good[np.argmax(y[good])])}
        if len(good) < len(part):
            keep.add(int(part[~finite[part]][0]))
    index = np.asarray(sorted(keep))
    return x[index], y[index]


def smooth(y: Line) -> Line:
    """Centred moving mean over a fortieth of the points; gaps stay gaps."""
    window = 2 * (len(y) // 80) + 1
    finite = np.isfinite(y)
    kernel = np.ones(window)
    total = np.convolve(np.where(finite, y, 0.0), kernel, mode="same")
    count = np.convolve(finite.astype(np.float64), kernel, mode="same")
    return np.where(finite, total / np.maximum(count, 1.0), np.nan)


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What a curve is read against: a healthy range (None: open end), labelled levels, and one labelled step."""

    healthy: tuple[float | None, float | None] | None = None
    levels: tuple[tuple[float, str], ...] = ()
    event: tuple[float, str] | None = None


def _limits(y: Line, marks: Marks) -> tuple[float, float]:
    """Ends of the vertical axis. The first values may leave it above when they would flatten everything after them."""
    finite = y[np.isfinite(y)]
    low, high = float(finite.min()), float(finite.max())
    later = finite[math.ceil(0.15 * len(finite)) :]
    if len(finite) >= 20 and high - low > 4 * (float(later.max()) - low) > 0:
        high = low + 1.25 * (float(later.max()) - low)
    bounds = [b for b in marks.healthy or () if b is not None] + [level for level, _ in marks.levels]
    low, high = min([low, *bounds]), max([high, *bounds])
    pad = (0.16 if marks.levels else 0.07) * (high - low) or max(abs(high) * 0.1, 1e-9)
    return low - pad, high + pad


def line_chart(x: Line, y: Line, *, label: str, x_end: float, marks: Marks | None = None) -> Element:
    """One curve over steps with its last value written at its end. Values that are no numbers are marked below.

    Args:
        label: what a screen reader says of it.
        x_end: the last step of the run: all charts of a page share the horizontal axis [0, x_end].
    """
    marks = marks or Marks()
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    finite = np.isfinite(y)
    if not finite.any():
        return tag("p", {"class": "missing"}, "No value is a number." if len(y) else "No value was written.")
    low, high = _limits(y, marks)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    x_end = max(x_end, float(x.max()), 1.0)

    def px(step: float) -> float:
        return _LEFT + (right - _LEFT) * step / x_end

    def py(value: float) -> float:
        share = min(max((value - low) / (high - low), -1.0), 2.0)  # far outside is as good as outside
        return bottom - (bottom - _TOP) * share

    parts: list[Element] = []
    if marks.healthy:
        top = _TOP if marks.healthy[1] is None else py(marks.healthy[1])
        base = bottom if marks.healthy[0] is None else py(marks.healthy[0])
        parts.append(
            tag(
                "rect",
                {
                    "class": "healthy",
                    "x": f"{_LEFT:g}",
                    "y": f"{top:.1f}",
                    "width": f"{right - _LEFT:g}",
                    "height": f"{base - top:.1f}",
                },
            )
        )
    constant = float(y[finite].min()) == float(y[finite].max()) and marks == Marks()
    for value in [float(y[finite][0])] if constant else nice_ticks(low, high):
        parts.append(tag("path", {"class": "rule", "d": f"M{_LEFT:g} {py(value):.1f}H{right:g}"}))
        parts.append(chart_text(_LEFT - 6, py(value) + 3.5, short(value), "tick end"))
    parts += _step_axis(x_end, px, bottom)
    for value, _ in marks.levels:
        parts.append(tag("path", {"class": "level", "d": f"M{_LEFT:g} {py(value):.1f}H{right:g}"}))
    if marks.event:
        at, text = marks.event
        parts.append(tag("path", {"class": "event", "d": f"M{px(at):.1f} {_TOP:g}V{bottom:g}"}))
        side = "end" if px(at) > right - 70 else ""
        parts.append(chart_text(px(at) + (-4 if side else 4), _TOP + 8, text, f"tick bad {side}"))

    main = smooth(y) if len(y) >= _SMOOTH_FROM else y
    curves = [(y, "curve raw"), (main, "curve")] if main is not y else [(y, "curve")]
    window = {"x": _LEFT - 3, "y": _TOP - 3, "width": right - _LEFT + 6, "height": bottom - _TOP + 6}
    box = " ".join(f"{size:g}" for size in window.values())
    # An inner svg clips to its own frame, without the ids that a clipPath needs.
    parts.append(
        tag(
            "svg",
            {**window, "viewBox": box, "class": "window"},
            [tag("path", {"class": kind, "d": _path(*thin(x, values), px, py)}) for values, kind in curves],
        )
    )
    for value, text in marks.levels:
        above = float(np.median(y[finite])) < value  # the label goes to the side where the curve is not
        parts.append(chart_text(_LEFT + 4, py(value) + (-4 if above else 11), text, "tick over"))
    highest = int(np.nanargmax(np.where(finite, y, np.nan)))
    if y[highest] > high:  # the peak is written where the curve comes back into the chart
        back = highest + int(np.argmax(main[highest:] <= high))
        parts.append(chart_text(px(x[back]) + 7, _TOP + 8, f"↑ {short(float(y[highest]))}", "tick"))
    last = int(np.flatnonzero(finite)[-1])
    end = py(float(min(max(main[last], low), high)))
    parts.append(tag("circle", {"class": "dot", "cx": f"{px(x[last]):.1f}", "cy": f"{end:.1f}", "r": "3"}))
    parts.append(chart_text(px(x[last]) + 7, end + 4, short(float(y[last])), "value"))
    for step in x[~finite][:60]:
        parts.append(tag("path", {"class": "event", "d": f"M{px(step):.1f} {bottom:g}v-6"}))
    return chart_figure(_WIDTH, _HEIGHT, label, parts)


def _step_axis(x_end: float, px, bottom: float) -> list[Element]:
    parts = [tag("path", {"class": "axis", "d": f"M{_LEFT:g} {bottom:g}H{_WIDTH - _RIGHT:g}"})]
    for step in nice_ticks(0.0, x_end, 3):
        if step == int(step):
            parts.append(chart_text(px(step), bottom + 14, short(step), "tick middle"))
    return parts


def _path(x: Line, y: Line, px, py) -> str:
    """Path data that breaks at values that are no numbers; a lone point becomes a dot through the round line end."""
    finite = np.isfinite(y)
    parts = []
    for i in np.flatnonzero(finite):
        starts = i == 0 or not finite[i - 1]
        alone = starts and (i + 1 == len(y) or not finite[i + 1])
        parts.append(f"{'M' if starts else 'L'}{px(x[i]):.1f} {py(y[i]):.1f}{'h0' if alone else ''}")
    return "".join(parts)


def chart_text(x: float, y: float, text: str, kind: str) -> Element:
    """Words at a place in a chart; `kind` are its CSS classes."""
    return tag("text", {"class": kind, "x": f"{x:.1f}", "y": f"{y:.1f}"}, text)


def chart_figure(width: float, height: float, label: str, parts: Sequence[Element]) -> Element:
    """A chart of these parts, with its description for those who do not see it."""
    box = {"class": "chart", "viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": label}
    return tag("svg", box, tag("title", label), parts)


@dataclass(frozen=True, kw_only=True)
class Whisker:
    """A measured value and its interval; `kind` is a CSS class that gives the colour."""

    name: str
    kind: str
    value: float
    low: float | None
    high: float | None


def interval_chart(whiskers: Sequence[Whisker], *, label: str, limits: tuple[float, float], digits: int = 3) -> Element:
    """Dots with whiskers on one horizontal scale. The first one's interval is a band across the others."""
    left, right, row, top = 96.0, 46.0, 21.0, 6.0
    low, high = limits
    bottom = top + row * len(whiskers)

    def px(value: float) -> float:
        return left + (_WIDTH - left - right) * (min(max(value, low), high) - low) / ((high - low) or 1.0)

    parts: list[Element] = []
    first = whiskers[0]
    if first.low is not None and first.high is not None:
        parts.append(
            tag(
                "rect",
                {
                    "class": "band",
                    "x": f"{px(first.low):.1f}",
                    "y": f"{top:g}",
                    "width": f"{max(px(first.high) - px(first.low), 1):.1f}",
                    "height": f"{bottom - top:g}",
                },
            )
        )
    for value in nice_ticks(low, high, 4):
        parts.append(tag("path", {"class": "rule", "d": f"M{px(value):.1f} {top:g}V{bottom:g}"}))
        parts.append(chart_text(px(value), bottom + 14, short(value), "tick middle"))
    for i, whisker in enumerate(whiskers):
        y = top + row * (i + 0.5)
        parts.append(chart_text(left - 8, y + 4, whisker.name, "name end" + (" strong" if i == 0 else "")))
        if whisker.low is not None and whisker.high is not None:
            reach = f"M{px(whisker.low):.1f} {y:g}H{px(whisker.high):.1f}"
            parts.append(tag("path", {"class": f"whisker {whisker.kind}", "d": reach}))
        parts.append(
            tag("circle", {"class": f"mark {whisker.kind}", "cx": f"{px(whisker.value):.1f}", "cy": f"{y:g}", "r": "4"})
        )
        parts.append(
            chart_text(_WIDTH - right + 8, y + 4, f"{whisker.value:.{digits}f}", "number" + (" strong" if i == 0 else ""))
        )
    return chart_figure(_WIDTH, bottom + 20, label, parts)


def scatter_chart(
    points: Float[np.ndarray, "points 2"],
    groups: Int[np.ndarray, "points"],
    names: Sequence[str],
    *,
    label: str,
    ordered: bool = False,
) -> Element:
    """Points coloured by group (-1: grey; from the eleventh on squares), its name at its most central point.

    `ordered` groups (ranges of a number) take the colours of a scale and no names, for they overlap.
    """
    low = points.min(axis=0)
    span = np.maximum(np.ptp(points, axis=0), 1e-12)
    width, edge = 680.0, 16.0
    height = float(np.clip(width * span[1] / span[0], 240.0, 560.0))
    scale = min((width - 2 * edge) / span[0], (height - 2 * edge) / span[1])
    offset = np.asarray([width, height]) / 2 - scale * (low + span / 2)
    placed = points * scale + offset
    parts: list[Element] = []
    texts: list[Element] = []
    for group in [-1, *range(len(names))]:
        member = placed[groups == group]
        if not len(member):
            continue
        # A zero-length stroke with a round or square end is a dot, in a fifth of the bytes of a <circle>.
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in member)
        shape = " square" if group >= 10 else ""
        name = tag("title", names[group] if group >= 0 else "other")
        colour = colour_class(group, ordered)
        parts.append(tag("path", {"class": f"dots {colour}{shape}", "d": dots}, name))
        if group >= 0 and not ordered and len(member) >= 3:
            x, y = member[np.argmin(np.abs(member - np.median(member, axis=0)).sum(axis=1))]
            texts.append(chart_text(x, y + 4, _shorten(names[group]), "halo middle"))
    return chart_figure(width, height, label, parts + texts)


def colour_class(group: int, ordered: bool = False) -> str:
    """CSS class of a group's colour: ten colours, then the same ten again; for `ordered` groups a scale of eight."""
    return "grey" if group < 0 else f"s{group % 8}" if ordered else f"c{group % 10}"


def _shorten(text: str, length: int = 18) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
