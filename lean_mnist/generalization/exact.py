"""Exact numbers in, and decisions about logarithms and powers that no rounding can turn.

A *decision* asks whether a real number is at least 0. The number is enclosed between two integers over a power of two,
each rounded away from the other, with as many bits as it takes. Floats decide nothing here. Standard library only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

from lean_mnist.errors import BoundError

Exact = int | Fraction | Decimal | str
Scaled = tuple[int, int, int]  # low, high, exponent: from low · 2^exponent to high · 2^exponent

_FIRST_BITS, _LAST_BITS = 96, 1536


def exact(value: Exact, name: str) -> Fraction:
    """``value`` as the rational it is: an int, a Fraction, a Decimal, or text such as ``0.035``, ``1e-9`` or ``7/200``.

    Raises ``BoundError``, naming ``name``, for anything else. A float is refused, because the one written 0.035 is
    0.035000000000000003….
    """
    if isinstance(value, bool) or not isinstance(value, (int, Fraction, Decimal, str)):
        found = f"the {type(value).__name__} {value!r}"
        raise BoundError(f"{name}: expected an exact number (int, Fraction, or text such as '0.035'), found {found}")
    if isinstance(value, str) and len(value) > 200:  # 1e999999999 would be a number of as many digits
        raise BoundError(f"{name}: expected a number of at most 200 characters, found {len(value)}")
    try:
        if isinstance(value, str) and "/" not in value and abs(Decimal(value).adjusted()) > 100_000:
            raise BoundError(f"{name}: expected a number of moderate size, found {value!r}")
        return Fraction(value)
    except (ValueError, ArithmeticError) as error:
        if isinstance(error, BoundError):
            raise
        raise BoundError(f"{name}: expected a number such as 0.035, 1e-9 or 7/200, found {str(value)!r}") from None


def log_bounds(x: Fraction, bits: int) -> tuple[int, int]:
    """``low ≤ 2^bits · ln x ≤ high``, in integers, for ``x > 0``; they are a few units apart.

    ``x = 2^e y`` with ``y`` from 1/2 to 2, and ``ln y = 2 artanh((y − 1)/(y + 1))`` by its power series.
    """
    assert x > 0
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    guard = 16 + abs(exponent).bit_length()
    work = bits + guard
    n = x.numerator << max(0, -exponent)
    d = x.denominator << max(0, exponent)
    low, high = _artanh(abs(n - d), n + d, work)
    if n < d:
        low, high = -high, -low
    two_low, two_high = _log_two(work)
    if exponent < 0:
        two_low, two_high = two_high, two_low
    low, high = 2 * low + exponent * two_low, 2 * high + exponent * two_high
    return low >> guard, -(-high >> guard)


@functools.lru_cache(maxsize=64)
def _log_two(bits: int) -> tuple[int, int]:
    low, high = _artanh(1, 3, bits)  # ln 2 = 2 artanh(1/3)
    return 2 * low, 2 * high


def _artanh(n: int, d: int, bits: int) -> tuple[int, int]:
    """``low ≤ 2^bits · artanh(n/d) ≤ high`` for ``0 ≤ n/d ≤ 1/3``: ``Σ z^(2i+1)/(2i+1)``, every term positive."""
    z_low = (n << bits) // d
    z_high = z_low + 1
    low, high, i = z_low, z_high, 1
    power_low, power_high = z_low, z_high
    square_low, square_high = (z_low * z_low) >> bits, -(-z_high * z_high >> bits)
    while power_high > 1:
        power_low, power_high = (power_low * square_low) >> bits, -(-power_high * square_high >> bits)
        i += 2
        low, high = low + power_low // i, high - (-power_high // i)
    # What was left out is at most power_high · (z² + z⁴ + …) / i, with z² ≤ 1/9 plus rounding: less than 1.
    return low, high + 1


def power_bounds(base: Fraction, n: int, bits: int) -> Scaled:
    """``base^n`` for ``base ≥ 0`` and ``n ≥ 0``, by squaring with ``bits`` bits, each rounded outward."""
    result: Scaled = (1, 1, 0)
    shift = base.denominator.bit_length() - base.numerator.bit_length() + bits
    square: Scaled = (
        (base.numerator << max(shift, 0)) // (base.denominator << max(-shift, 0)),
        -((-base.numerator << max(shift, 0)) // (base.denominator << max(-shift, 0))),
        -shift,
    )
    while n:
        if n & 1:
            result = product_bounds(result, square, bits)
        n >>= 1
        if n:
            square = product_bounds(square, square, bits)
    return result


def product_bounds(a: Scaled, b: Scaled, bits: int) -> Scaled:
    """The product of two non-negative enclosures, cut to ``bits`` bits outward."""
    low, high, exponent = a[0] * b[0], a[1] * b[1], a[2] + b[2]
    cut = max(0, high.bit_length() - bits)
    return low >> cut, -(-high >> cut), exponent + cut


def decide(enclosure: Callable[[int], tuple[int | Fraction, int | Fraction]]) -> bool | None:
    """Whether the number that ``enclosure(bits) -> (low, high)`` encloses is at least 0, with ever more bits.

    ``None`` if more than a thousand bits do not tell, as where it is exactly 0 in a way that no enclosure can see.
    """
    bits = _FIRST_BITS
    while bits <= _LAST_BITS:
        low, high = enclosure(bits)
        if low >= 0:
            return True
        if high < 0:
            return False
        bits *= 4
    return None


def least(satisfied: Callable[[int], bool], start: int, low: int, high: int | None) -> int:
    """The least whole number from ``low`` on that is ``satisfied``, which no smaller and every greater one must be.

    Steps out from ``start``, doubling, and halves what remains; ``high`` is taken as satisfied without asking, and
    ``None`` is without end. The answer is verified: it is satisfied (or ``high``) and its predecessor is not (or it is
    ``low``).
    """
    start = max(low, start if high is None else min(start, high))
    step = 1
    if (high is not None and start == high) or satisfied(start):
        top, bottom = start, start - 1
        while bottom >= low and satisfied(bottom):
            top, bottom, step = bottom, bottom - step, step * 2
        bottom = max(bottom, low - 1)
    else:
        bottom, top = start, start + 1
        while (high is None or top < high) and not satisfied(top):
            bottom, top, step = top, top + step, step * 2
        top = top if high is None else min(top, high)
    while top - bottom > 1:
        middle = (top + bottom) // 2
        if satisfied(middle):
            top = middle
        else:
            bottom = middle
    return top


def decimal_text(value: Fraction, digits: int, up: bool) -> str:
    """``value ≥ 0`` with ``digits`` digits after the point, rounded ``up`` or down, never to nearest."""
    scaled = value * 10**digits
    whole = -(-scaled.numerator // scaled.denominator) if up else scaled.numerator // scaled.denominator
    text = str(whole).rjust(digits + 1, "0")
    return f"{text[:-digits]}.{text[-digits:]}" if digits else text
