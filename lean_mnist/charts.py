"""Small charts, drawn with Pillow: lines and bars over two axes, in a few hundredths of a second.

Every run draws some at its end, and loading matplotlib takes longer than a short run trains. The built-in font knows
no Greek letters, so texts are plain ASCII.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Point = tuple[float, float]

BLUE, ORANGE, GREEN, RED, GREY = (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (150, 150, 150)
COLOURS = (BLUE, ORANGE, GREEN, RED)
Colour = tuple[int, int, int]

_OVER = 2  # drawn this much larger and scaled down, which smooths the edges
_WIDTH, _HEIGHT = 720, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 44, 72, 64


@dataclass(frozen=True)
class Axis:
    """What an axis shows: a label, the range, and whether it is logarithmic or in per cent."""

    label: str
    low: float
    high: float
    logarithmic: bool = False
    percent: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, from 0 to 1; what lies outside is put at the end."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Round values inside the range and their texts."""
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            for power in range(first, last + 1):
                yield 10.0**power, f"1e{power}" if first < -4 or last > 6 else f"{10.0**power:,.{max(0, -power)}f}"
            return
        rough = (self.high - self.low) / 6
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        digits = max(0, -math.floor(math.log10(step * (100 if self.percent else 1)) + 1e-9))
        for number in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1):
            value = number * step
            yield value, f"{100 * value:.{digits}f} %" if self.percent else f"{value:.{digits}f}"


@dataclass
class Chart:
    """A chart to draw on; ``picture`` gives uint8 ``(height, width, 3)``."""

    title: str
    x: Axis
    y: Axis
    _legend: list[tuple[Colour, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        from PIL import Image, ImageDraw

        self._image = Image.new("RGB", (_WIDTH * _OVER, _HEIGHT * _OVER), "white")
        self._draw = ImageDraw.Draw(self._image)
        self._axes()

    def line(self, points: Sequence[Point], colour: Colour, *, dashed: bool = False) -> None:
        """Straight lines through ``points``."""
        corners = [self._at(point) for point in points]
        if dashed:
            for start, end in _dashes(corners):
                self._draw.line([start, end], colour, 2 * _OVER)
        else:
            self._draw.line(corners, colour, round(2.2 * _OVER), joint="curve")

    def dot(self, point: Point, colour: Colour) -> None:
        """A dot at ``point``."""
        (x, y), radius = self._at(point), 5 * _OVER
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour, "white", _OVER)

    def bar(self, left: float, right: float, top: float, colour: Colour) -> None:
        """A bar from the bottom of the chart up to ``top``."""
        (x0, y0), (x1, y1) = self._at((left, top)), self._at((right, self.y.low))
        self._draw.rectangle((x0 + _OVER, min(y0, y1), x1 - _OVER, y1), colour)

    def whisker(self, x: float, low: float, high: float, colour: Colour) -> None:
        """An interval of y at ``x``."""
        (at, y0), (_, y1) = self._at((x, high)), self._at((x, low))
        for ends in (
            (at, y0, at, y1),
            (at - 4 * _OVER, y0, at + 4 * _OVER, y0),
            (at - 4 * _OVER, y1, at + 4 * _OVER, y1),
        ):
            self._draw.line(ends, colour, round(1.5 * _OVER))

    def explain(self, colour: Colour, label: str) -> None:
        """A line of the legend."""
        self._legend.append((colour, label))

    def picture(self) -> Picture:
        """The chart with its legend."""
        self._draw_legend()
        return np.asarray(self._image.reduce(_OVER))

    def _at(self, point: Point) -> Point:
        x = _LEFT + self.x.place(point[0]) * (_WIDTH - _LEFT - _RIGHT)
        y = _HEIGHT - _BOTTOM - self.y.place(point[1]) * (_HEIGHT - _TOP - _BOTTOM)
        return x * _OVER, y * _OVER

    def _axes(self) -> None:
        left, bottom = self._at((self.x.low, self.y.low))
        right, top = self._at((self.x.high, self.y.high))
        for value, text in self.x.ticks():
            x, _ = self._at((value, self.y.low))
            self._draw.line((x, bottom, x, top), (232, 232, 232), _OVER)
            self._text((x, bottom + 14 * _OVER), text, 14)
        for value, text in self.y.ticks():
            _, y = self._at((self.x.low, value))
            self._draw.line((left, y, right, y), (232, 232, 232), _OVER)
            self._text((left - 8 * _OVER, y), text, 14, "rm")
        self._draw.rectangle((left, top, right, bottom), None, (90, 90, 90), _OVER)
        self._text(((left + right) / 2, 22 * _OVER), self.title, 17)
        self._text(((left + right) / 2, bottom + 42 * _OVER), self.x.label, 15)
        self._upwards(self.y.label)

    def _text(self, at: Point, text: str, size: int, anchor: str = "mm") -> None:
        self._draw.text(at, text, "black", _font(size), anchor)

    def _upwards(self, text: str) -> None:
        from PIL import Image, ImageDraw

        length = (_HEIGHT - _TOP - _BOTTOM) * _OVER
        strip = Image.new("RGB", (length, 24 * _OVER), "white")
        middle = (length / 2, 12 * _OVER)
        ImageDraw.Draw(strip).text(middle, text, "black", _font(15), "mm")
        self._image.paste(strip.rotate(90, expand=True), (2 * _OVER, _TOP * _OVER))

    def _draw_legend(self) -> None:
        """In one row between title and chart, so that it hides nothing."""
        font, dash, gap = _font(14), 22 * _OVER, 24 * _OVER
        widths = [dash + 8 * _OVER + font.getlength(label) for _, label in self._legend]
        x, middle = (_WIDTH * _OVER - sum(widths) - gap * (len(widths) - 1)) / 2, 52 * _OVER
        for (colour, label), width in zip(self._legend, widths, strict=True):
            self._draw.line((x, middle, x + dash, middle), colour, 4 * _OVER)
            self._draw.text((x + dash + 8 * _OVER, middle), label, "black", font, "lm")
            x += width + gap


@functools.cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size * _OVER)


def _dashes(corners: Sequence[Point]) -> Iterator[tuple[Point, Point]]:
    dash = 7 * _OVER
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        length = math.hypot(x1 - x0, y1 - y0)
        for start in np.arange(0, length, 2 * dash):
            ends = (start / length, min(1.0, (start + dash) / length))
            first, second = ((x0 + t * (x1 - x0), y0 + t * (y1 - y0)) for t in ends)
            yield first, second
