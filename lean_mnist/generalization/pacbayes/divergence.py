"""``KL(posterior ‖ prior)`` of stored numbers, rounded up by exact arithmetic.

    KL = ½ (Σ σ_i²/σ₀² − P + Σ (μ_i − μ₀_i)²/σ₀²) − Σ ln σ_i + P ln σ₀

Every stored number is a binary fraction, so both sums of squares are exact, and the sum of logarithms is the logarithm
of a product, of which a thousand factors at a time are multiplied exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import flint
import numpy as np
import numpy.typing as npt

from lean_mnist.errors import CertificateError
from lean_mnist.generalization.exact import ball, decide, least

DIGITS = 6
"""After the point, of a divergence in nats."""
_EXPONENT, _CHUNK = 149, 1000  # every float32 is a whole number times 2^-149


def divergence_above(
    means: npt.NDArray[np.float32],
    scales: npt.NDArray[np.float32],
    prior_means: npt.NDArray[np.float32],
    prior_scale: Fraction,
) -> Fraction:
    """The least decimal of ``DIGITS`` digits that is at least KL; all of shape (P,), ``prior_scale`` σ₀ > 0.

    Raises ``CertificateError`` for numbers that are not finite, and scales that are not above 0.
    """
    for name, values in (("mean", means), ("scale", scales), ("prior mean", prior_means)):
        if not np.isfinite(values).all() or (name == "scale" and not (values > 0).all()):
            raise CertificateError(f"{name}: holds infinities, NaN or a scale that is not above 0")
    squares = sum(s * s for s in _whole(scales))
    squares += sum((a - b) ** 2 for a, b in zip(_whole(means), _whole(prior_means), strict=True))
    count = len(scales)
    half = (Fraction(squares, 4**_EXPONENT) / prior_scale**2 - count) / 2
    products = _products(scales)

    def divergence() -> flint.arb:
        logs = sum((ball(product).log() for product in products), flint.arb(0))
        return ball(half) - logs + count * ball(prior_scale).log()

    def covers(n: int) -> bool:  # where no bits tell, they are equal: posterior and prior are one
        return decide(lambda: ball(Fraction(n, 10**DIGITS)) - divergence()) is not False

    with flint.ctx.workprec(96):
        start = int((divergence() * 10**DIGITS).floor().unique_fmpz() or 0)
    return Fraction(least(covers, start, 0, None), 10**DIGITS)


def _whole(values: npt.NDArray[np.float32]) -> list[int]:
    return [int(value) for value in np.ldexp(values.astype(np.float64), _EXPONENT).tolist()]


def _products(scales: npt.NDArray[np.float32]) -> Sequence[Fraction]:
    """The product of all scales as the product of a few exact ones."""
    mantissas, exponents = np.frexp(scales.astype(np.float64))
    whole = np.ldexp(mantissas, 24).astype(np.int64).tolist()
    result = []
    for start in range(0, len(whole), _CHUNK):
        exponent = int(exponents[start : start + _CHUNK].sum()) - 24 * len(whole[start : start + _CHUNK])
        result.append(Fraction(math.prod(whole[start : start + _CHUNK])) * Fraction(2) ** exponent)
    return result
