"""Charts of world models: lines stay inside, gaps stay gaps, the cheapest cell is ringed, everything has words."""

import numpy as np

from jepakit.pages.markup import serialise
from jepakit.pages.plots import Curve, cost_chart, curves_chart, legend, plane_chart


def curve(y, **options):
    y = np.asarray(y, dtype=float)
    return Curve(name="a", kind="f-encoder", x=np.arange(len(y), dtype=float), y=y, **options)


def drawn(element):
    return serialise(element).decode()


def test_a_gap_breaks_the_line_and_no_numbers_are_said():
    page = drawn(curves_chart([curve([1, 2, np.nan, 3, 4])], label="error"))
    path = page.split('class="line f-encoder" d="')[1].split('"')[0]
    assert path.count("M") == 2
    assert path.count("L") == 2
    assert 'aria-label="error"' in page
    assert "No value is a number" in drawn(curves_chart([curve([np.nan, np.inf])], label="error"))


def test_what_grows_without_bound_does_not_flatten_the_rest():
    calm, wild = curve([0.1, 0.2, 0.3]), curve([0.1, 1e6, 1e12])
    page = drawn(curves_chart([calm, wild], label="error", ceiling=2.0))
    assert ">2<" in page
    assert "e+" not in page


def test_a_band_needs_both_bounds():
    banded = curve([1, 2, 3], low=np.array([0.5, np.nan, 2]), high=np.array([1.5, 2.5, 4]))
    assert drawn(curves_chart([banded], label="x")).count('class="shade') == 1
    assert 'class="shade' not in drawn(curves_chart([curve([1, 2])], label="x"))


def test_a_plane_has_one_scale_and_named_marks():
    path = Curve(name="real", kind="f-raw", x=np.array([0.0, 10]), y=np.array([0.0, 5]))
    page = drawn(
        plane_chart([path], [("goal", "f-supervised", 5, 5)], label="way", limits=((0, 10), (0, 5)), names=("x", "y"))
    )
    points = page.split('class="line f-raw" d="M')[1].split('"')[0].split("L")
    (x0, y0), (x1, y1) = (tuple(map(float, point.split())) for point in points)
    assert abs((x1 - x0) - 2 * (y1 - y0)) < 0.3
    assert y1 > y0  # downwards, as in pictures
    assert "<title>goal</title>" in page


def test_the_cheapest_cell_is_ringed():
    cost = np.array([[3.0, 2, 1], [5, 4, 0], [np.inf, np.nan, 9]])
    axis = np.array([-1.0, 0, 1])
    page = drawn(cost_chart(cost, axis, axis, (0.0, 1.0), label="cost", names=("a", "b")))
    assert page.count('class="cost"') == 7
    ring = page.split('class="ring" cx="')[1]
    cross = page.split('class="cross" d="M')[1]
    assert abs(float(ring.split('"')[0]) - (float(cross.split()[0]) + 5)) < 0.2  # x of the cheapest is 0, as of the cross
    single = drawn(cost_chart(cost[:, :1], axis, np.zeros(1), None, label="cost", names=("a", "b")))
    assert "(up)" not in single
    assert 'class="cost"' in single


def test_names_stand_beside_their_strokes():
    assert drawn(legend([("the model", "f-encoder", True)])).count("dashed") == 1
