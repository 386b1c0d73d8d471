"""Plots are well-formed SVG, stay within their frame, and draw values at the right place."""

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.evaluation.metrics.calibration import Bin
from modules.evaluation.pages.plots import HEIGHT, WIDTH, coverage_plot, line_plot, reliability_plot, ticks

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 6))


def points_of(svg):
    plot = ElementTree.fromstring(svg)
    line = next(plot.iter("polyline"))
    return [tuple(map(float, point.split(","))) for point in line.get("points").split()]


@given(NUMBERS, NUMBERS)
def test_ticks_span_the_data_in_even_round_steps(one, other):
    low, high = min(one, other), max(one, other)
    values = ticks(low, high, 4)
    assert 2 <= len(values) <= 6
    assert values[0] <= low + 1e-9 and values[-1] >= high - 1e-9
    steps = [after - before for before, after in zip(values, values[1:], strict=False)]
    assert min(steps) > 0 and max(steps) == pytest.approx(min(steps), rel=1e-6)


def test_ticks_of_usual_scores():
    assert ticks(0, 1, 4) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(0, 1200, 4) == [0, 500, 1000, 1500]


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=60))
def test_a_curve_lies_in_its_frame_and_keeps_its_order(points):
    points = sorted(points)
    drawn = points_of(line_plot(points, 'loss "<total>" & more', "step"))
    assert len(drawn) == len(points)
    assert all(-0.1 <= x <= WIDTH + 0.1 and -0.1 <= y <= HEIGHT + 0.1 for x, y in drawn)
    assert [x for x, _ in drawn] == sorted(x for x, _ in drawn)
    (_, low), (_, high) = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])
    assert (max(y for _, y in drawn) > min(y for _, y in drawn)) or high - low <= 1e-2 * max(abs(high), abs(low), 1)


def test_a_curve_says_what_it_shows():
    plot = ElementTree.fromstring(line_plot([(0, 2), (50, 0.51234)], "report loss", "step"))
    assert plot.get("role") == "img"
    assert plot.get("aria-label") == "report loss: from 2 at 0 to 0.5123 at 50"
    assert len(list(plot.iter("circle"))) == 2


def test_reliability_bars_have_the_height_of_the_frequency():
    bins = [Bin(0, 1 / 15, 5, 0.02, 0.0), Bin(14 / 15, 1, 10, 0.97, 0.5)]
    plot = ElementTree.fromstring(reliability_plot(bins, "regions"))
    first, second = plot.iter("rect")
    assert float(first.get("height")) == 0
    ideal = next(line for line in plot.iter("line") if line.get("class") == "ideal")
    whole = float(ideal.get("y1")) - float(ideal.get("y2"))
    assert float(second.get("height")) == pytest.approx(whole / 2, abs=0.2)
    assert "10 decisions: mean probability 0.970, frequency 0.500" in "".join(plot.itertext())


def test_coverage_marks_the_shares_of_the_table():
    rates = [share / 400 for share in range(1, 101)]
    svg = coverage_plot(rates, (100, 20), "error of sentences")
    drawn = points_of(svg)
    assert len(drawn) == 100 and drawn[0][1] > drawn[-1][1]
    marked = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in ElementTree.fromstring(svg).iter("circle")]
    assert marked == [drawn[99], drawn[19]]


def test_no_error_at_all_can_be_drawn():
    assert len(points_of(coverage_plot([0.0] * 100, (100,), "error"))) == 100


@pytest.mark.parametrize("value", [0.0, 1e-12, 3.7e-9, -1e-300, 0.25, 1e12])
def test_a_curve_of_one_value_can_be_drawn(value):
    assert "<polyline" in line_plot([(1, value), (2, value * (1 + 1e-15))], "loss", "step")
