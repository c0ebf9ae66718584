"""Exact rational input, and comparisons of real numbers that are decided by interval arithmetic.

A *decision* asks whether a real number is at least 0. It is enclosed by ball arithmetic (Arb, through python-flint:
F. Johansson, IEEE Transactions on Computers 66, 2017), with as many bits as it takes. Floats decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

from lean_mnist.errors import BoundError

if TYPE_CHECKING:
    import flint

Exact = int | Fraction | Decimal | str

_BITS = (96, 384, 1536)
_LARGEST = 1000  # power of ten of a number: Python writes no more than 4,300 digits


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
        large = isinstance(value, str) and "/" not in value and abs(Decimal(value).adjusted()) > _LARGEST
        number = Fraction(0 if large else value)
    except (ValueError, ArithmeticError):
        raise BoundError(f"{name}: expected a number such as 0.035, 1e-9 or 7/200, found {str(value)!r}") from None
    if large:
        raise BoundError(f"{name}: expected a number of moderate size, found {value!r}")
    return number


def ball(value: Fraction | int) -> flint.arb:
    """The smallest ball around ``value`` at the precision that is set."""
    import flint  # here, because a program that decides nothing does without

    return flint.arb(flint.fmpq(value.numerator, value.denominator))


def decide(number: Callable[[], flint.arb]) -> bool | None:
    """Decide whether the real number that ``number()`` encloses, at the precision that is set, is at least 0.

    ``None`` if more than a thousand bits do not tell, as where it is exactly 0 in a way that no enclosure can see.
    """
    import flint

    for bits in _BITS:
        with flint.ctx.workprec(bits):
            enclosure = number()
            if enclosure >= 0:
                return True
            if enclosure < 0:
                return False
    return None


def least(satisfied: Callable[[int], bool], start: int, low: int, high: int | None) -> int:
    """The least whole number from ``low`` on that is ``satisfied``, which no smaller and every greater one must be.

    Steps out from ``start``, doubling, and halves what remains; ``high`` is taken as satisfied without asking, and
    ``None`` is without end. The answer is verified: it is satisfied (or ``high``) and its predecessor is not (or it is
    ``low``).
    """
    start = max(low, start if high is None else min(start, high))
    step = 1
    if start == high or satisfied(start):
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


def percent(value: Fraction, *, up: bool) -> str:
    """A probability in per cent with two digits after the point, rounded ``up`` or down, never to nearest."""
    return f"{decimal_text(100 * value, 2, up)} %"
