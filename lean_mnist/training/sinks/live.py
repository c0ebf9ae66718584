"""Lines on a terminal that are drawn again in their place, cut to its width; a bar and a sparkline for them."""

import math
import os
import shutil
import time
from collections.abc import Sequence
from typing import TextIO

Piece = tuple[str, str]  # a text and its style

_STYLES = {"bold": "1", "dim": "2", "red": "1;31", "green": "32", "cyan": "36"}
_LEVELS, _PLAIN_LEVELS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
_EVERY = 0.1  # seconds between drawings


def can_redraw(stream: TextIO) -> bool:
    """True if ``stream`` is a terminal that can move its cursor up."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def coloured(stream: TextIO) -> bool:
    """True if colours are wanted on ``stream``: on a terminal, unless ``NO_COLOR`` is set (no-color.org)."""
    return can_redraw(stream) and not os.environ.get("NO_COLOR")


class Board:
    """The last lines of the terminal ``stream``, drawn anew each time."""

    def __init__(self, stream: TextIO, colour: bool) -> None:
        self._stream, self._colour = stream, colour
        self._lines: list[str] = []  # as they stand there
        self._drawn = -math.inf
        try:
            _LEVELS.encode(stream.encoding or "utf-8")
            self.levels = _LEVELS
        except (UnicodeEncodeError, LookupError):
            self.levels = _PLAIN_LEVELS

    def is_due(self) -> bool:
        """True if the last drawing is long enough ago for another to be seen."""
        return time.monotonic() - self._drawn >= _EVERY

    def draw(self, lines: Sequence[Sequence[Piece]]) -> None:
        """Draw ``lines`` in the place of those that are there."""
        width = self._width()
        self._lines = [self._line(line, width) for line in lines]
        self._write(self._over() + "\n".join(self._lines))
        self._drawn = time.monotonic()

    def above(self, text: str) -> None:
        """Print a line that stays, above the others."""
        self._write(f"{self._over()}{text}\n" + "\n".join(self._lines))

    def leave(self) -> None:
        """Let the lines stand as they are; what is drawn next comes below."""
        if self._lines:
            self._write("\n")
        self._lines = []

    def bar(self, share: float, width: int) -> str:
        """A bar of ``width`` characters, filled to ``share``."""
        filled = round(width * min(max(share, 0.0), 1.0))
        full, empty = ("█", "░") if self.levels == _LEVELS else ("#", ".")
        return full * filled + empty * (width - filled)

    def _over(self) -> str:
        """Put the cursor where the lines begin, and clear what is from there on."""
        if not self._lines:
            return ""
        up = f"\x1b[{len(self._lines) - 1}A" if len(self._lines) > 1 else ""
        return f"\r{up}\x1b[J"

    def _width(self) -> int:
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = shutil.get_terminal_size().columns
        return max(1, (columns or 80) - 1)

    def _line(self, pieces: Sequence[Piece], width: int) -> str:
        line = ""
        for text, style in pieces:
            cut = text[:width]
            width -= len(cut)
            line += f"\x1b[{_STYLES[style]}m{cut}\x1b[0m" if style and cut and self._colour else cut
        return line

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def sparkline(values: Sequence[float], width: int, levels: str = _LEVELS) -> str:
    """The course of positive ``values``, on a logarithmic scale, in at most ``width`` characters of ``levels``.

    Each character is the mean of as many values as any other, but for the last; one that is not finite is ``!``.
    """
    size = max(1, -(-len(values) // width))
    means = [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]
    logs = [math.log(mean) if 0 < mean < math.inf else math.nan for mean in means]
    finite = [value for value in logs if not math.isnan(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return "".join("!" if math.isnan(value) else levels[round((value - low) * scale)] for value in logs)


def clock(seconds: float) -> str:
    """``4:05``, or ``1:04:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
