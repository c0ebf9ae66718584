"""Images of whole numbers as rows of characters, each pixel by its share of the largest value a pixel can have.

The range is what the caller says that pixels of its kind can have, 0 to 255 for bytes; it is never guessed from an
image, of which a dark one would come out bright. Shapes: an image is uint8 ``(rows, columns)``, of any size.
"""

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

# From the darkest to the brightest. "detailed" is the ramp of 70 characters by Paul Bourke (1997).
PALETTES = {
    "default": " .:-=+*#%@",
    "simple": " .:-=+@",
    "detailed": " .'`^\",:;Il!i><~+_-?][}{1)(|\\/tfjrxnuvczXYUJCLQ0OZmwqpdbkhao*#MW&8%B@$",
    "blocks": " ░▒▓█",
}
_UPPER_HALF, _RESET = "▀", "\x1b[0m"


def shares(image: Image, maximum: int, steps: int) -> npt.NDArray[np.int64]:
    """``pixel / maximum`` in whole ``steps``, to the nearest: 0 is 0 and ``maximum`` is ``steps``.

    Pixels above ``maximum``, which are none of its kind, are as bright as it.
    """
    return np.minimum((2 * image.astype(np.int64) * steps + maximum) // (2 * maximum), steps)


def in_characters(image: Image, maximum: int, palette: str) -> list[str]:
    """A line a row and a character a pixel, of ``palette``, whose characters go from 0 to ``maximum``."""
    characters = np.array(list(palette))
    return ["".join(row) for row in characters[shares(image, maximum, len(palette) - 1)]]


def in_grey(image: Image, maximum: int, *, inverted: bool = False) -> Image:
    """Each pixel as a grey from 0, black, to 255, white."""
    grey = shares(image, maximum, 255).astype(np.uint8)
    return 255 - grey if inverted else grey


def in_colour(image: Image, maximum: int, *, inverted: bool = False) -> list[str]:
    """Two rows a line, by half blocks in 24-bit grey; as wide as the image, escape sequences aside.

    A last row without a second has the terminal's own background below it.
    """
    grey = in_grey(image, maximum, inverted=inverted)
    lines = []
    for top in range(0, len(grey), 2):
        line, before = "", None
        for pair in zip(*grey[top : top + 2].tolist(), strict=True):
            if pair != before:
                line += "".join(f"\x1b[{layer};2;{g};{g};{g}m" for layer, g in zip((38, 48), pair, strict=False))
            line, before = line + _UPPER_HALF, pair
        lines.append(line + _RESET)
    return lines


def statistics(image: Image) -> dict[str, float]:
    """``min``, ``max``, ``mean`` and population standard deviation, ``deviation``, in units of a pixel's value."""
    mean, deviation = float(image.mean()), float(image.std())
    return {"min": int(image.min()), "max": int(image.max()), "mean": mean, "deviation": deviation}
