"""Numbers in words, as people write them."""

import math
from decimal import ROUND_CEILING, Context
from fractions import Fraction

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float) -> str:
    """A number as a person writes it: ``0.05``, ``2·10⁻⁷``."""
    if value == 0 or not math.isfinite(value) or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    return _scientific(f"{value:.1e}")


def at_most(value: float) -> str:
    """The same of an upper bound above 0, in two digits, rounded up."""
    if not math.isfinite(value):
        return number(value)
    rounded = Context(2, ROUND_CEILING).create_decimal(value)
    return f"{rounded:f}" if 1e-3 <= rounded < 1e5 else _scientific(f"{rounded:.1e}")


def _scientific(text: str) -> str:
    mantissa, _, exponent = text.partition("e")
    mantissa, power = mantissa.removesuffix(".0"), str(int(exponent)).translate(_SUPERSCRIPTS)
    return f"10{power}" if mantissa == "1" else f"{mantissa}·10{power}"


def per_cent(share: float, digits: int = 2) -> str:
    """``0.9847`` as ``98.47 %``."""
    return f"{100 * share:.{digits}f} %"


def seconds(value: float) -> str:
    """A time as a person says it."""
    if value < 120:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def plural(count: int, one: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{count:,} {one}{'s' * (count != 1)}"


def confidence(delta: Fraction) -> str:
    """``1 - delta`` in per cent, rounded down, with as many digits as tell it from certainty."""
    digits = 2
    while digits < 40 and delta * 10 ** (digits + 2) < 1:
        digits += 1
    whole = (1 - delta) * 100 * 10**digits
    text = str(whole.numerator // whole.denominator).rjust(digits + 1, "0")
    return f"{text[:-digits]}.{text[-digits:]}".rstrip("0").rstrip(".") + " %"
