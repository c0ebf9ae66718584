"""Uniform grids that a layer's weights are rounded to: shift and scale are float16 numbers."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import ArgumentError, check_choice

RANGES = ("minimum-maximum", "least-squares", "normal")

# The step, in standard deviations, of the uniform grid of 2^b points with the least squared error for normally
# distributed weights (J. Max, Quantizing for minimum distortion, 1960, table II; b > 5 by the same equation).
_NORMAL_STEPS = {1: 1.596, 2: 0.9957, 3: 0.5860, 4: 0.3352, 5: 0.1881, 6: 0.1041, 7: 0.0569, 8: 0.0308}
_SHARES = [k / 40 for k in range(8, 41)]
_LARGEST, _SMALLEST = 65504.0, 2.0**-24


class Grid(NamedTuple):
    """``shift + scale · k`` for ``k = 0 … points − 1``."""

    shift: np.float16
    scale: np.float16
    points: int

    def codes(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
        """The k nearest to each weight, halves to the even one, the ends for what lies outside; uint16, same shape."""
        steps = np.rint((weights - float(self.shift)) / float(self.scale))
        return np.clip(steps, 0, self.points - 1).astype(np.uint16)

    def values(self, codes: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
        """The points with these numbers."""
        return float(self.shift) + float(self.scale) * codes.astype(np.float64)


def grid_of(weights: npt.NDArray[np.float64], bits: int, rule: str = "least-squares") -> Grid:
    """A grid of 2^bits points for ``weights``.

    ``minimum-maximum`` reaches from the smallest to the largest weight; ``normal`` is the best uniform grid for
    normally distributed weights of this mean and deviation (up to 8 bits; above, minimum-maximum; at 1 bit the mean,
    less and plus the mean absolute deviation); ``least-squares`` is that of these and of 33 shares of the full range
    about its middle and about the mean which has the least squared error. Raises ``ArgumentError``.
    """
    check_bits(bits)
    check_choice("rule", rule, RANGES)
    if weights.size == 0 or not np.isfinite(weights).all():
        raise ArgumentError("weights: none, infinities or NaN, expected finite numbers")
    low, high = float(weights.min()), float(weights.max())
    if max(abs(low), abs(high)) > _LARGEST / 2:
        raise ArgumentError(f"weights: {max(abs(low), abs(high)):g}, expected at most {_LARGEST / 2:g} for float16")
    points = 1 << bits
    if rule == "minimum-maximum" or (rule == "normal" and bits not in _NORMAL_STEPS):
        return _grid(low, high, points)
    mean, half = float(weights.mean()), _NORMAL_STEPS.get(bits, 0.0) * (points - 1) / 2 * float(weights.std())
    if rule == "normal":
        half = float(np.abs(weights - mean).mean()) if bits == 1 else half
        return _grid(mean - half, mean + half, points)
    candidates = [_grid(low, high, points)]
    if bits in _NORMAL_STEPS:
        candidates.append(_grid(mean - half, mean + half, points))
    for centre in ((low + high) / 2, mean):
        reach = max(high - centre, centre - low)
        candidates += [_grid(centre - share * reach, centre + share * reach, points) for share in _SHARES]
    if points == 2:  # a mean above and a mean below: the optimum has this form
        above = weights > mean
        if above.any() and not above.all():
            candidates.append(_grid(float(weights[~above].mean()), float(weights[above].mean()), points))
    return min(candidates, key=lambda grid: float(np.square(grid.values(grid.codes(weights)) - weights).sum()))


def check_bits(bits: int) -> None:
    """Raise ``ArgumentError`` unless a grid can have ``2^bits`` points."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
        raise ArgumentError(f"bits: {bits!r}, expected a whole number from 1 to 16")


def _grid(low: float, high: float, points: int) -> Grid:
    """The float16 grid nearest to ``low … high``; its scale is rounded up, so that it reaches as far."""
    shift = np.float16(low)
    step = (high - float(shift)) / (points - 1)
    scale = np.float16(max(step, _SMALLEST))
    if float(scale) < step:
        scale = np.nextafter(scale, np.float16(math.inf))
    return Grid(shift, scale, points)
