"""Tiles, each an image with its caption, in frames and columns: a sheet of them as text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lean_mnist.rendering.pixels import PALETTES, Image, in_characters, in_colour

# Corners from the upper left, row by row, then the horizontal and the vertical line.
BORDERS = {
    "none": "",
    "single": "┌┐└┘─│",
    "double": "╔╗╚╝═║",
    "rounded": "╭╮╰╯─│",
    "heavy": "┏┓┗┛━┃",
    "ascii": "++++-|",
}
_GAP = 2  # columns between tiles


@dataclass(frozen=True)
class Tile:
    """An image, uint8 ``(rows, columns)``, with lines of text above and below it."""

    image: Image
    above: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    marked: bool = False  # red above it, where there is colour


@dataclass(frozen=True)
class Style:
    """Drawing of tiles: ``maximum`` is the largest value that a pixel can have."""

    maximum: int
    palette: str = "default"
    border: str = "none"
    inverted: bool = False  # dark where it was bright
    wide: bool = False  # two characters a pixel, which then is about a square
    colour: bool = False  # instead of a palette: 24-bit, half blocks

    def block(self, tile: Tile) -> tuple[list[str], int]:
        """The lines of a tile, each filled up with spaces to the width that is returned."""
        image = tile.image.repeat(2, axis=1) if self.wide else tile.image
        width = image.shape[1]
        if self.colour:
            drawn = in_colour(image, self.maximum, inverted=self.inverted)
        else:
            drawn = in_characters(image, self.maximum, PALETTES[self.palette][:: -1 if self.inverted else 1])
        if self.border != "none":
            left, right, lower_left, lower_right, flat, upright = tuple(BORDERS[self.border])
            top, bottom = f"{left}{flat * width}{right}", f"{lower_left}{flat * width}{lower_right}"
            drawn, width = [top, *(f"{upright}{line}{upright}" for line in drawn), bottom], width + 2
        whole = max(width, *map(len, tile.above), *map(len, tile.below), 0)
        above, below = ([line.ljust(whole) for line in lines] for lines in (tile.above, tile.below))
        if tile.marked and self.colour:
            above = [f"\x1b[1;31m{line}\x1b[0m" for line in above]
        return [*above, *(line + " " * (whole - width) for line in drawn), *below], whole


def sheet(tiles: Sequence[Tile], columns: int, style: Style) -> Iterator[str]:
    """Lines of a sheet of ``tiles``, row by row, so many ``columns`` of them, with an empty line between rows."""
    for first in range(0, len(tiles), columns):
        if first:
            yield ""
        blocks = [style.block(tile) for tile in tiles[first : first + columns]]
        for index in range(max(len(lines) for lines, _ in blocks)):
            cells = (lines[index] if index < len(lines) else " " * width for lines, width in blocks)
            yield (" " * _GAP).join(cells).rstrip(" ")
