"""Charts draw what they are given: ends, gaps, extremes, single points."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepakit.pages.charts import (
    Marks,
    Whisker,
    interval_chart,
    line_chart,
    nice_ticks,
    scatter_chart,
    short,
    smooth,
    thin,
)


def chart(y, **options):
    y = np.asarray(y, dtype=np.float64)
    return line_chart(np.arange(len(y), dtype=np.float64), y, label="loss", x_end=float(len(y)), **options)


def curve(svg):
    """Path data of the main curve, without the pale raw one."""
    (path,) = [node for node in svg.iter("path") if node.get("class") == "curve"]
    return path.get("d")


def by_class(svg, kind):
    return [node for node in svg.iter() if kind in (node.get("class") or "").split()]


@given(st.integers(1, 3000), st.integers(0, 2**32 - 1), st.floats(0, 0.3))
def test_thinning_keeps_ends_and_extremes(count, seed, broken):
    generator = np.random.default_rng(seed)
    x, y = np.arange(count, dtype=np.float64), generator.normal(size=count)
    y[generator.random(count) < broken] = np.nan
    kept_x, kept_y = thin(x, y)
    assert len(kept_x) == len(kept_y) <= 400
    assert (np.diff(kept_x) > 0).all()
    assert (kept_x[0], kept_x[-1]) == (0, count - 1)
    np.testing.assert_array_equal(kept_y, y[kept_x.astype(int)])
    if np.isfinite(y).any():
        assert np.nanmin(kept_y) == np.nanmin(y)
        assert np.nanmax(kept_y) == np.nanmax(y)
    assert np.isnan(kept_y).any() == np.isnan(y).any()


def test_smoothing_keeps_a_line_and_its_gaps():
    y = np.full(400, 3.0)
    y[100:110] = np.nan
    np.testing.assert_allclose(smooth(y), y)
    noise = np.random.default_rng(0).normal(size=400)
    assert smooth(noise).std() < 0.5 * noise.std()


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_inside_and_few(low, span):
    ticks = nice_ticks(low, low + span)
    assert 1 <= len(ticks) <= 8
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.0012, "0.0012"),
        (5e-4, "5e-4"),
        (43.12, "43.1"),
        (1234.0, "1234"),
        (12_345.0, "12.3k"),
        (2e6, "2M"),
    ],
)
def test_short_numbers(value, text):
    assert short(value) == text


def test_one_point_is_a_dot():
    assert re.fullmatch(r"M[\d.]+ [\d.]+h0", curve(chart([2.0])))


def test_a_curve_breaks_at_values_that_are_no_numbers_and_marks_them():
    svg = chart([1.0, 2.0, np.nan, 3.0, np.inf, 5.0])
    assert curve(svg).count("M") == 3
    assert "nan" not in curve(svg)
    assert "inf" not in curve(svg)
    assert len(by_class(svg, "event")) == 2


@pytest.mark.parametrize("y", [[], [np.nan, np.inf]])
def test_nothing_to_draw_is_said(y):
    assert chart(y).tag == "p"


def test_the_highest_value_is_drawn_highest():
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", curve(chart([1.0, 5.0, 3.0])))]
    assert heights[1] < heights[2] < heights[0]


def test_the_last_value_is_written():
    assert [node.text for node in by_class(chart([1.0, 5.0, 0.25]), "value")] == ["0.25"]


def test_thousands_of_points_stay_small():
    svg = chart(np.random.default_rng(0).normal(size=20_000))
    assert len(re.findall("[ML]", curve(svg))) <= 400
    assert len(by_class(svg, "raw")) == 1


def test_a_start_far_above_the_rest_leaves_the_chart_and_is_written():
    y = np.concatenate([[300.0, 100.0], np.linspace(2, 1, 50)])
    assert "↑ 300" in [node.text for node in chart(y).iter("text")]
    late = np.concatenate([np.linspace(2, 1, 50), [300.0, 2.0]])
    assert not any((node.text or "").startswith("↑") for node in chart(late).iter("text"))


def test_the_healthy_range_covers_what_is_healthy():
    svg = chart([0.0, 10.0], marks=Marks(healthy=(5.0, None), levels=((5.0, "five"),), event=(1.0, "collapsed")))
    (band,) = by_class(svg, "healthy")
    bottom_of_band = float(band.get("y")) + float(band.get("height"))
    start, end = (float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", curve(svg)))
    assert end < bottom_of_band < start
    assert {"five", "collapsed"} <= {node.text for node in svg.iter("text")}


def test_every_chart_is_named_for_a_screen_reader():
    svg = chart([1.0, 2.0])
    assert (svg.get("role"), svg.get("aria-label")) == ("img", "loss")


def test_whiskers_stand_where_the_numbers_are():
    rows = [
        Whisker(name="Encoder", kind="a", value=0.75, low=0.5, high=1.0),
        Whisker(name="Pixels", kind="b", value=0.25, low=None, high=None),
    ]
    svg = interval_chart(rows, label="both", limits=(0.0, 1.0))
    first, second = (float(node.get("cx")) for node in by_class(svg, "mark"))
    (whisker,) = by_class(svg, "whisker")
    low, high = (float(number) for number in re.findall(r"[MH]([\d.]+)", whisker.get("d")))
    assert first == pytest.approx((low + high) / 2, abs=0.2)
    assert first - second == pytest.approx(high - low, abs=0.2)
    (band,) = by_class(svg, "band")
    assert float(band.get("x")) == pytest.approx(low, abs=0.1)


def test_scatter_groups_points_by_class():
    generator = np.random.default_rng(0)
    groups = np.asarray([0] * 5 + [11] * 4 + [-1] * 3)
    svg = scatter_chart(generator.normal(size=(12, 2)), groups, [f"class {i}" for i in range(12)], label="map")
    dots = {node.get("class"): node.get("d").count("M") for node in by_class(svg, "dots")}
    assert dots == {"dots c0": 5, "dots c1 square": 4, "dots grey": 3}
    assert {node.text for node in svg.iter("text")} == {"class 0", "class 11"}


def test_scatter_of_ranges_takes_a_scale_and_no_names():
    svg = scatter_chart(np.eye(6)[:, :2], np.arange(6) // 3, ["low", "high"], label="map", ordered=True)
    assert {node.get("class") for node in by_class(svg, "dots")} == {"dots s0", "dots s1"}
    assert list(svg.iter("text")) == []


def test_scatter_of_one_place_is_finite():
    svg = scatter_chart(np.zeros((4, 2)), np.zeros(4, dtype=np.int64), ["one"], label="map")
    assert "nan" not in by_class(svg, "dots")[0].get("d")
