"""A sheet of tiles as a PNG picture: each image enlarged by a whole number, its text above and below it."""

import io
from collections.abc import Sequence

import numpy as np

from lean_mnist.errors import ConfigError
from lean_mnist.rendering.pixels import in_grey
from lean_mnist.rendering.sheet import Tile

_SIDE = 112  # dots of a small image, about
_GAP, _LINE, _FONT = 12, 18, 14  # dots: between tiles, from line to line, of the letters
_MOST = 100_000_000  # dots of a picture
_INK, _PAPER, _MARKED, _EDGE = (32, 32, 32), (255, 255, 255), (190, 30, 30), (200, 200, 200)


def png(tiles: Sequence[Tile], columns: int, maximum: int, *, inverted: bool = False) -> bytes:
    """The file: ``tiles`` of images of one size in so many ``columns``; pixels of 0 are black, of ``maximum`` white.

    Raises ``ConfigError`` for a picture of more than a hundred million dots.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    font = ImageFont.load_default(_FONT)
    rows, wide = tiles[0].image.shape
    scale = max(1, _SIDE // max(rows, wide))
    texts = [text for tile in tiles for text in tile.above + tile.below]
    cell = max([scale * wide, *(int(np.ceil(font.getlength(text))) for text in texts)]) + _GAP
    above, below = (max(len(getattr(tile, side)) for tile in tiles) for side in ("above", "below"))
    row = scale * rows + _LINE * (above + below) + _GAP
    width, height = cell * min(columns, len(tiles)) + _GAP, row * -(-len(tiles) // columns) + _GAP
    if width * height > _MOST:
        raise ConfigError(f"--png: a picture of {width:,} x {height:,} dots, expected at most {_MOST:,}; fewer images?")
    made = Pillow.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(made)
    for index, tile in enumerate(tiles):
        x, y = _GAP + index % columns * cell, _GAP + index // columns * row
        for text in tile.above:
            draw.text((x, y), text, _MARKED if tile.marked else _INK, font)
            y += _LINE
        grey = in_grey(tile.image, maximum, inverted=inverted)
        made.paste(Pillow.fromarray(grey).resize((scale * wide, scale * rows), Pillow.Resampling.NEAREST), (x, y))
        draw.rectangle((x - 1, y - 1, x + scale * wide, y + scale * rows), outline=_EDGE)
        y += scale * rows + 2
        for text in tile.below:
            draw.text((x, y), text, _INK, font)
            y += _LINE
    content = io.BytesIO()
    made.save(content, "png")
    return content.getvalue()
