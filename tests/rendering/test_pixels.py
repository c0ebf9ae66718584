"""Pixels as characters and as colours: the range is that of the data, never guessed from an image."""

import re

import numpy as np
import numpy.typing as npt
import pytest

from lean_mnist.data.datasets import load_dataset
from lean_mnist.rendering.pixels import PALETTES, in_characters, in_colour, in_grey, shares, statistics
from tests.support.shared_data import folder_with

Image = npt.NDArray[np.uint8]
EVERY_BYTE: Image = np.arange(256, dtype=np.uint8).reshape(16, 16)


def indices(lines: list[str], palette: str) -> npt.NDArray[np.int64]:
    """Places in the palette of what was drawn."""
    return np.array([[palette.index(character) for character in line] for line in lines])


@pytest.mark.parametrize("name", PALETTES)
def test_each_byte_has_the_nearest_character_of_the_palette(name: str) -> None:
    palette = PALETTES[name]
    assert len(set(palette)) == len(palette) == {"default": 10, "simple": 7, "detailed": 70, "blocks": 5}[name]
    found = indices(in_characters(EVERY_BYTE, 255, palette), palette)
    exact = EVERY_BYTE / 255 * (len(palette) - 1)
    assert (np.abs(found - exact) <= 0.5).all()
    assert (np.diff(found.ravel()) >= 0).all()
    assert (found[0, 0], found[-1, -1]) == (0, len(palette) - 1)


def test_the_range_is_that_of_the_data() -> None:
    image = np.array([[0, 8, 16]], np.uint8)
    assert in_characters(image, 16, PALETTES["blocks"]) == [" ▒█"]
    assert in_characters(image, 255, PALETTES["blocks"]) == ["   "]  # dark ones stay dark
    assert in_characters(np.array([[17, 255]], np.uint8), 16, PALETTES["blocks"]) == ["██"]
    assert (shares(EVERY_BYTE, 255, 255) == EVERY_BYTE).all()


def greys(lines: list[str], rows: int) -> npt.NDArray[np.int64]:
    """Greys that a terminal shows, by reading its escape sequences: the first is above, the second below."""
    found = []
    for line in lines:
        assert line.endswith("▀\x1b[0m")
        upper: list[int] = []
        lower: list[int] = []
        above = below = -1
        for layer, red, green, blue, half in re.findall(r"\x1b\[(38|48);2;(\d+);(\d+);(\d+)m|(▀)", line):
            if half:
                upper, lower = [*upper, above], [*lower, below]
            else:
                assert red == green == blue
                above, below = (int(red), below) if layer == "38" else (above, int(red))
        found += [upper, lower]
    assert all(grey == -1 for row in found[rows:] for grey in row)  # nothing below the last row
    return np.array(found[:rows])


@pytest.mark.parametrize("shape", [(28, 28), (8, 8), (1, 1), (5, 7), (64, 100)])
def test_colours_are_the_pixels_to_the_bit(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    lines = in_colour(image, 255)
    assert len(lines) == (shape[0] + 1) // 2
    assert (greys(lines, shape[0]) == image).all()
    assert (greys(in_colour(image, 255, inverted=True), shape[0]) == 255 - image.astype(int)).all()
    assert (in_grey(image, 255, inverted=True) == 255 - image).all()


def test_statistics_are_those_of_the_pixels() -> None:
    assert statistics(np.array([[0, 2], [4, 6]], np.uint8)) == {"min": 0, "max": 6, "mean": 3.0, "deviation": 5**0.5}


def test_images_that_a_guess_of_the_range_saturates_come_out_right() -> None:
    """LEAN_mnist looks at five pixels and, where none is above 1.1, takes an image for one of values from 0 to 1."""
    root = folder_with("MNIST/raw")
    images: Image = load_dataset("mnist", root, download=False, says=False).test.images.numpy()
    seen = images.reshape(len(images), -1)[:, [100, 200, 400, 600, 700]]
    guessed_wrong = images[(seen <= 1.1).all(axis=1)]
    assert len(guessed_wrong) == 1672
    palette = PALETTES["default"]
    for image in guessed_wrong:
        theirs = np.clip(image.astype(float), 0, 1)  # every pixel of ink is as bright as can be
        assert set(np.unique(theirs)) <= {0, 1}
        assert len(np.unique(image)) > 2
        ours = indices(in_characters(image, 255, palette), palette)
        assert (ours == np.rint(image / 255 * (len(palette) - 1))).all()
