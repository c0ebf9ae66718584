"""Charts as SVG: lines labelled where they end, a band, marked points; colours are classes of the page's style.

Series differ in their dashes and are named beside them, so that colour alone tells nothing apart.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup, escape

from lean_mnist.training.report.words import number

_MOST = 400  # points of a line
_LETTER = 7.0  # width of one, about, at 12 pixels
_LINE = 15  # between labels
_LEFT, _RIGHT, _ABOVE, _BELOW = 54, 98, 34, 46  # of the plot, for ticks and labels

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of ``points``, in order of x; ``kind`` is a class of the style: accent, ink, pale, limit or broad."""

    label: str
    points: Sequence[Point]
    kind: str = "accent"
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over x from 0 to ``x_end``, with an optional band of ``(x, low, high)`` and a point marked by a text.

    ``text`` says in words what there is to see. With ``log`` y is logarithmic, where only numbers above 0 are drawn.
    """

    name: str  # of letters and hyphens: it becomes an id
    title: str
    text: str
    x_label: str
    x_end: float
    y_label: str
    lines: Sequence[Line]
    band: Sequence[tuple[float, float, float]] = ()
    mark: tuple[float, float, str] | None = None
    log: bool = False
    percent: bool = False  # shares, up to 1, which is in sight
    height: int = 300

    def __html__(self) -> str:
        """The chart twice, wide and narrow, of which the style shows the one that fits."""
        return str(self._svg("wide", 720, self.height) + self._svg("narrow", 340, self.height - 40))

    def _svg(self, form: str, width: int, height: int) -> Markup:
        plot = _Plot(self, width, height)
        ids = [f"{self.name}-{form}-{part}" for part in ("title", "text")]
        open_tag = Markup(
            '<svg class="chart {}" viewBox="0 0 {} {}" role="img" aria-labelledby="{} {}"><title id="{}">{}</title>'
            '<desc id="{}">{}</desc>'
        ).format(form, width, height, *ids, ids[0], self.title, ids[1], self.text)
        return Markup("").join([open_tag, *plot.axes(), *plot.series(), Markup("</svg>")])


class _Axis(NamedTuple):
    """Map from values to pixels, and the values at which it has ticks."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: list[float]

    def __call__(self, value: float) -> float:
        low, high, at = (
            (math.log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)


class _Plot:
    def __init__(self, chart: Chart, width: int, height: int) -> None:
        points = [point for line in chart.lines for point in line.points]
        points += [(x, y) for x, low, high in chart.band for y in (low, high)]
        ys = [y for _, y in points if math.isfinite(y) and (y > 0 or not chart.log)] or [1.0]
        ys += [1.0] if chart.percent else []
        low, high, ticks = (_log_range if chart.log else _range)(min(ys), max(ys))
        high = max(ys) if chart.percent else high
        step = _step(chart.x_end, 6 if width > 500 else 4, whole=True)
        x_ticks = [step * n for n in range(int(chart.x_end / step + 1e-9) + 1)]
        self.x = _Axis(0.0, chart.x_end, _LEFT, width - _RIGHT, False, x_ticks)
        self.y = _Axis(low, high, height - _BELOW, _ABOVE, chart.log, ticks)
        self.chart, self.height = chart, height

    def axes(self) -> list[Markup]:
        chart, x, y = self.chart, self.x, self.y
        said: Callable[[float], str] = (lambda value: f"{100 * value:.10g} %") if chart.percent else number
        middle = (x.start + x.end) / 2
        parts = [_text(4, 16, chart.y_label, "name"), _text(middle, self.height - 6, chart.x_label, "name middle")]
        for value in y.ticks:
            at = y(value)
            parts.append(_path(f"M{x.start:.1f} {at:.1f}H{x.end:.1f}", "grid"))
            parts.append(_text(x.start - 7, at + 4, said(value), "tick end"))
        for value in x.ticks:
            parts.append(_path(f"M{x(value):.1f} {y.start:.1f}v4", "grid"))
            parts.append(_text(x(value), y.start + 18, f"{value:,.10g}", "tick middle"))
        return parts

    def series(self) -> list[Markup]:
        chart, x, y, parts = self.chart, self.x, self.y, list[Markup]()
        if chart.band:
            upper = [f"{x(at):.1f} {y(high):.1f}" for at, _, high in chart.band]
            lower = [f"{x(at):.1f} {y(low):.1f}" for at, low, _ in reversed(chart.band)]
            parts.append(_path("M" + "L".join(upper + lower) + "Z", "band"))
        ends: list[tuple[float, str, str]] = []
        for line in chart.lines:
            drawn = [(x(at), y(value)) for at, value in line.points if y.holds(value)]
            if not drawn:
                continue
            if len(drawn) > 1:
                parts.append(_path("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in drawn), f"line {line.kind}"))
            if line.dots or len(drawn) == 1:
                parts += [_dot(a, b, f"dot {line.kind}") for a, b in drawn]
            ends.append((drawn[-1][1], line.label, line.kind))
        for at, label, kind in _apart(ends, y.end, y.start):
            parts.append(_text(x.end + 8, at + 4, label, f"label {kind}"))
        if chart.mark is not None and y.holds(chart.mark[1]):
            parts += self._marked(*chart.mark)
        return parts

    def _marked(self, at: float, value: float, text: str) -> list[Markup]:
        """A dot, and its text below what is drawn beside it, or above where there is no room."""
        chart, x, y = self.chart, self.x, self.y
        left, wide = x(at), len(text) * _LETTER
        if left + wide > x.end:
            left = max(x.start, left - wide)
        seen = [(a, low) for a, low, _ in chart.band] + [(a, high) for a, _, high in chart.band]
        seen += [point for line in chart.lines for point in line.points]
        near = [y(v) for a, v in [*seen, (at, value)] if y.holds(v) and left - 12 <= x(a) <= left + wide + 12]
        beside = max(near) + 18 if max(near) + 26 < y.start else min(near) - 10
        return [_dot(x(at), y(value), "dot accent chosen"), _text(left, beside, text, "mark")]


def thinned(points: Sequence[Point], choose: Callable[[Sequence[Point]], Point]) -> list[Point]:
    """At most some hundred of the ``points``: of neighbours the one that is chosen; a NaN is never left out of them."""
    each = -(-len(points) // _MOST)
    groups = (points[start : start + each] for start in range(0, len(points), each or 1))
    return [choose(group) for group in groups]


def largest(points: Sequence[Point]) -> Point:
    """The highest of neighbouring points."""
    return max(points, key=lambda point: math.inf if math.isnan(point[1]) else point[1])


def last(points: Sequence[Point]) -> Point:
    """The last of neighbouring points."""
    return points[-1]


def _step(span: float, most: int, *, whole: bool = False) -> float:
    """The least of 1, 2, 5 times a power of ten by which ``span`` has at most so many parts."""
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * times for times in (1, 2, 5, 10) if power * times * most >= span * (1 - 1e-9))
    return max(1.0, step) if whole else step


def _range(low: float, high: float) -> tuple[float, float, list[float]]:
    step = _step((high - low) or abs(high) or 1.0, 5)
    first, final = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    final = max(final, first + 1)
    return first * step, final * step, [n * step for n in range(first, final + 1)]


def _log_range(low: float, high: float) -> tuple[float, float, list[float]]:
    first, final = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    if final - first <= 1:
        near = [10.0**first * times for times in (1, 2, 5, 10)]
        start = max(tick for tick in near if tick <= low * (1 + 1e-9))
        end = min((tick for tick in near if tick >= high * (1 - 1e-9) and tick > start), default=near[-1])
        if start < end:
            return start, end, [tick for tick in near if start <= tick <= end]
    final = max(final, first + 1)
    every = -(-(final - first) // 6)
    return 10.0**first, 10.0**final, [10.0**power for power in range(first, final + 1, every)]


def _apart(ends: list[tuple[float, str, str]], top: float, bottom: float) -> list[tuple[float, str, str]]:
    """Labels in their order from above, moved so that none covers another: down, and up again from the bottom."""
    ordered = sorted(ends)
    places = [max(at, top) for at, _, _ in ordered]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + _LINE)
    for index in range(len(places) - 1, -1, -1):
        places[index] = min(places[index], bottom if index == len(places) - 1 else places[index + 1] - _LINE)
    return [(at, label, kind) for at, (_, label, kind) in zip(places, ordered, strict=True)]


def _path(d: str, kind: str) -> Markup:
    return Markup('<path class="{}" d="{}"/>').format(kind, d)


def _dot(x: float, y: float, kind: str) -> Markup:
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(kind, x, y)


def _text(x: float, y: float, text: str, kind: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(kind, x, y, escape(text))
