"""Draws of (network, example) pairs, from which the risk of a Gaussian over networks is estimated.

Every draw takes an example at random and draws the weights anew for it. A layer's pre-activations, given its inputs,
are then independent Gaussians, ``z_j ~ N(Σ μ_ji h_i + β_j, Σ σ_ji² h_i² + τ_j²)`` with biases of mean β and deviation
τ, because no weight is used twice: drawing them is drawing the weights, exactly, at the price of two products a layer
(Kingma, Salimans and Welling, 2015, train this way). The draws are independent, so their errors are binomial.

The random numbers are not chosen: draw i reads the output of SHAKE-128 on a key and i, and the key is the hash of what
is certified. The specification, by which the checker repeats any of them alone, is ``checker.DRAWS``.

Shapes: ``N`` draws, ``D`` input features, ``H`` units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Layer = tuple[Array, Array, Array, Array]  # μ (H, D), σ (H, D), β (H,), τ (H,)

MARGIN = 2.0**-20
_CHUNK = 1000


def draw_outcomes(
    layers: Sequence[Layer],
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    maximum: int,
    key: bytes,
    draws: int,
) -> npt.NDArray[np.bool_]:
    """Which of the draws are errors, bool (N,); images uint8 (m, rows, columns), features ``pixel / maximum``."""
    pixels = images.reshape(len(images), -1)
    variances = [(mean.T.copy(), np.square(scale).T.copy(), bias, np.square(own)) for mean, scale, bias, own in layers]
    units = [len(bias) for _, _, bias, _ in layers]
    wrong = np.empty(draws, dtype=bool)
    for start in range(0, draws, _CHUNK):
        numbers = range(start, min(start + _CHUNK, draws))
        examples, noise = random_numbers(key, numbers, len(images), sum(units))
        h, at = pixels[examples] / maximum, 0
        for mean_DH, variance_DH, bias, own in variances:
            z = h @ mean_DH + bias
            z += np.sqrt(np.square(h) @ variance_DH + own) * noise[:, at : at + len(bias)]
            h, at = np.maximum(z, 0), at + len(bias)
        rows, chosen = np.arange(len(z)), labels[examples]
        own_logit = z[rows, chosen].copy()
        z[rows, chosen] = -np.inf
        wrong[numbers.start : numbers.stop] = ~(own_logit - z.max(1) > MARGIN)
    return wrong


def random_numbers(key: bytes, numbers: range, examples: int, units: int) -> tuple[npt.NDArray[np.int64], Array]:
    """For each of these draws an example's index, int64 (N,), and ``units`` standard normal numbers, float64."""
    words = 1 + units + units % 2
    raw = b"".join(hashlib.shake_128(key + number.to_bytes(8, "big")).digest(8 * words) for number in numbers)
    streams = np.frombuffer(raw, "<u8").reshape(len(numbers), words)
    chosen = np.array([int(word) * examples >> 64 for word in streams[:, 0]], np.int64)
    radius = np.sqrt(-2 * np.log(((streams[:, 1::2] >> np.uint64(11)) + 0.5) * 2.0**-53))
    angle = (streams[:, 2::2] >> np.uint64(11)) * (2 * np.pi * 2.0**-53)
    noise = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2).reshape(len(numbers), -1)
    return chosen, noise[:, :units]
