"""Small plots as inline SVG for `modules/evaluation/pages/report_page.py`.

A plot is WIDTH by HEIGHT units and scales with the page, whose CSS sets the colours (classes `axis`, `grid`, `line`,
`point`, `bar`, `ideal`). For accessibility, every plot has a text label (`role="img"`) and its points have titles.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from modules.evaluation.metrics.calibration import BINS, Bin

WIDTH, HEIGHT = 320, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 18, 12, 34
# Curves with more points are drawn without markers, which would overlap.
_MAX_MARKERS = 40


@dataclass(frozen=True)
class _Axes:
    """Maps data coordinates to drawing units; ticks must be within `low`..`high`."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - _TOP - _BOTTOM)

    def frame(self, x_label: str, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
        """Grid, ticks and label of the x axis as SVG."""
        right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        lines = [
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{self.y(tick):.1f}" y2="{self.y(tick):.1f}" />'
            f'<text class="tick" x="{_LEFT - 5}" y="{self.y(tick) + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
            for tick in y_ticks
        ]
        lines += [
            f'<text class="tick" x="{self.x(tick):.1f}" y="{bottom + 15}" text-anchor="middle">{_number(tick)}</text>'
            for tick in x_ticks
        ]
        lines.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" />')
        middle = (_LEFT + right) / 2
        lines.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
        return "".join(lines)


def line_plot(points: Sequence[tuple[float, float]], title: str, x_label: str) -> str:
    """A curve through `points` (x, y), at least one, in ascending order of x; both axes fit the data."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_ticks, y_ticks = ticks(xs[0], xs[-1], 4), ticks(min(ys), max(ys), 4)
    if xs[-1] > xs[0]:  # the curve spans the full width
        x_low, x_high = xs[0], xs[-1]
    else:
        x_low, x_high = x_ticks[0], x_ticks[-1]
    axes = _Axes(x_low, x_high, y_ticks[0], y_ticks[-1])
    x_ticks = [tick for tick in x_ticks if x_low <= tick <= x_high]
    label = f"{title}: from {_number(ys[0])} at {_number(xs[0])} to {_number(ys[-1])} at {_number(xs[-1])}"
    markers = _markers(axes, points) if len(points) <= _MAX_MARKERS else ""
    return _svg(label, axes.frame(x_label, x_ticks, y_ticks) + _line(axes, points) + markers)


def reliability_plot(bins: Sequence[Bin], title: str) -> str:
    """Reliability diagram: observed frequency (bars) by predicted probability; the dashed diagonal is ideal.

    The points mark the mean probability and frequency of each bin; its title has the number of decisions.
    """
    axes, fifths = _Axes(0, 1, 0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]
    bars = "".join(
        f'<rect class="bar" x="{axes.x(each.low) + 1:.1f}" width="{axes.x(1 / BINS) - axes.x(0) - 2:.1f}" '
        f'y="{axes.y(each.frequency):.1f}" height="{axes.y(0) - axes.y(each.frequency):.1f}">'
        f"<title>{each.count} decisions: mean probability {each.probability:.3f}, frequency {each.frequency:.3f}"
        "</title></rect>"
        for each in bins
    )
    ideal = f'<line class="ideal" x1="{axes.x(0)}" y1="{axes.y(0)}" x2="{axes.x(1)}" y2="{axes.y(1)}" />'
    markers = _markers(axes, [(each.probability, each.frequency) for each in bins])
    return _svg(title, axes.frame("predicted probability", fifths, fifths) + bars + ideal + markers)


def coverage_plot(by_coverage: Sequence[float], marked: Sequence[int], title: str) -> str:
    """Error rate of the most confident sentences by coverage; `by_coverage` has the rates at 1, 2, ..., 100 per cent.

    marked   coverages with a marker
    The dashed line is the error rate at full coverage, which a random order has everywhere.
    """
    y_ticks = ticks(0, max(*by_coverage, 0.01), 4)
    axes = _Axes(0, 100, 0, y_ticks[-1])
    points = list(enumerate(by_coverage, start=1))
    level = axes.y(by_coverage[-1])
    random_order = f'<line class="ideal" x1="{axes.x(0)}" y1="{level:.1f}" x2="{axes.x(100)}" y2="{level:.1f}" />'
    return _svg(
        title,
        axes.frame("most confident sentences kept, %", [0, 20, 40, 60, 80, 100], y_ticks) + random_order
        + _line(axes, points) + _markers(axes, [points[coverage - 1] for coverage in marked]),
    )


def ticks(low: float, high: float, max_steps: int) -> list[float]:
    """Round numbers that span `low`..`high`: the first is at most `low`, the last at least `high`.

    The step is 1, 2 or 5 times a power of ten, the finest one with about `max_steps` steps.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value, up to rounding
        half = abs(low) * 0.1 or 1.0
        low, high = low - half, high + half
    rough = (high - low) / max_steps
    power = 10.0 ** math.floor(math.log10(rough))
    steps = (factor * power for factor in (1, 2, 5, 10, 20))
    step = next(step for step in steps if math.ceil(high / step) - math.floor(low / step) <= max_steps + 1)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [float(f"{position * step:.10g}") for position in range(first, last + 1)]


def _line(axes: _Axes, points: Sequence[tuple[float, float]]) -> str:
    path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)
    return f'<polyline class="line" points="{path}" />'


def _markers(axes: _Axes, points: Sequence[tuple[float, float]]) -> str:
    return "".join(
        f'<circle class="point" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3">'
        f"<title>{_number(x)}: {_number(y)}</title></circle>"
        for x, y in points
    )


def _svg(label: str, content: str) -> str:
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{content}</svg>'


def _number(value: float) -> str:
    """`value` with up to four significant digits; integers below ten million in full."""
    if value == round(value) and abs(value) < 1e7:
        return str(round(value))
    return f"{value:.4g}"
