"""``Ball``: a tensor of midpoints and one of radii, which together enclose a tensor of real numbers.

Whatever real numbers stand inside the operands of an operation, its real result stands inside the ball that comes out
(Rump, Verification methods, Acta Numerica 19, 2010, and, for products of matrices, Fast and parallel interval
arithmetic, BIT 39, 1999). A formula that is run on balls so encloses its own exact value. Where no finite radius can be
given, it is infinite; no radius, and no midpoint, is ever NaN.

In the comments ``a, r`` are midpoint and radius of the left operand, ``b, s`` of the right one, and what is computed in
float64 is written ``fl(...)``. The rules of rounding, and what they assume, are in :mod:`.rounding`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from lean_mnist.chainrule.arrays import Primitives
from lean_mnist.enclosure.rounding import (
    ELEMENTARY_ULPS,
    EPSILON,
    TINY,
    gamma,
    least_nonzero,
    raised,
    raised_products,
    rounding_of,
)
from lean_mnist.errors import ArgumentError

Real = int | float | Fraction
SAFE = 2.0**-200  # numbers above it can be multiplied a few times before anything underflows


class Ball:
    """Encloses every real array ``X`` of its shape with ``|X − mid| ≤ rad``, number by number.

    ``mid`` and ``rad`` are float64 of one shape on one device; ``mid`` is finite, ``rad`` at least 0 and possibly
    infinite. Made by :meth:`exact` (of a tensor) or :meth:`of_number`; a number that is no real number (an infinity, a
    NaN) is enclosed by an infinite radius.

    Supports ``+ − * / @``, ``** ½``, ``.T``, ``.sum(axis)``, indexing and ``.shape``. A plain tensor or a number
    (``int``, ``float``, ``Fraction``) on the other side of an operator means exactly its own value.

    ``floor`` is set on a ball that is known to be exact, all radii 0: no number in it other than 0 is smaller. It says
    nothing that the tensors do not; it saves looking through a large weight for radii and for what may underflow.
    """

    __slots__ = ("floor", "mid", "rad")
    __primitives__: ClassVar[Primitives]  # set by .primitives

    def __init__(self, mid: Tensor, rad: Tensor, floor: float | None = None) -> None:
        assert mid.shape == rad.shape
        assert mid.dtype == rad.dtype == torch.float64
        # One pass each: a sum is finite only if every term is, and is NaN if one is.
        if not (torch.isfinite(mid.sum()) and (floor is not None or not torch.isnan(rad.sum()))):
            unknown = ~torch.isfinite(mid) | torch.isnan(rad)
            mid, rad = mid.masked_fill(unknown, 0), rad.masked_fill(unknown, torch.inf)
            floor = None
        self.mid, self.rad, self.floor = mid, rad, floor

    @staticmethod
    def exact(tensor: Tensor) -> Ball:
        """The numbers of ``tensor``, of any floating dtype (float64 holds them all), with radius 0."""
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            found = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ArgumentError(f"ball: expected a tensor of a floating dtype, found {found}")
        mid = tensor.detach().to(torch.float64)
        kind = torch.finfo(tensor.dtype)
        return Ball(mid, mid.new_zeros(()).expand(mid.shape), floor=kind.tiny * kind.eps)  # the smallest subnormal

    @staticmethod
    def of_number(value: Real, like: Ball) -> Ball:
        """A real number, as a ball of shape ``()`` beside ``like``: exact if float64 holds it, else enclosed."""
        try:
            nearest = float(value)
            error = abs(Fraction(value) - Fraction(nearest)) if nearest - nearest == 0 else Fraction(0)
        except OverflowError:  # an int or fraction beyond float64
            nearest, error = torch.inf, Fraction(0)
        mid = like.mid.new_tensor(nearest)
        # float(error) is within half a unit of error, so the next number up is above it.
        rad = like.mid.new_tensor(float(error))
        return Ball(mid, torch.nextafter(rad, rad.new_tensor(torch.inf)) if error else rad)

    @property
    def shape(self) -> torch.Size:
        """Shape of the real arrays inside."""
        return self.mid.shape

    @property
    def T(self) -> Ball:  # noqa: N802 — the name every kind of array has
        """The transpose."""
        return Ball(self.mid.T, self.rad.T, self.floor)

    @property
    def is_exact(self) -> bool:
        """True if every radius is 0."""
        return self.floor is not None or not bool(self.rad.any())

    @property
    def least(self) -> float:
        """A lower bound of every magnitude in ``mid`` and ``rad`` that is not 0; infinite if there are none."""
        if self.floor is not None and self.floor > SAFE:
            return self.floor
        return least_nonzero(self.mid) if self.is_exact else least_nonzero(self.mid, self.rad)

    @property
    def magnitude(self) -> Tensor:
        """The largest magnitude inside, rounded up: ``|mid| + rad``."""
        return raised(self.mid.abs() + self.rad, 1)

    @property
    def mignitude(self) -> Tensor:
        """The smallest magnitude inside, rounded down: ``max(|mid| − rad, 0)``."""
        difference = self.mid.abs() - self.rad
        # nextafter down from the nearest number is below the real difference. An exact ball loses nothing.
        lowered = torch.nextafter(difference, difference.new_zeros(()))
        return torch.where(self.rad == 0, difference, lowered).clamp(min=0)

    @property
    def is_zero(self) -> Tensor:
        """Bool tensor, true where the only number inside is 0."""
        return (self.mid == 0) & (self.rad == 0)

    @property
    def is_nonpositive(self) -> Tensor:
        """Bool tensor, true where every number inside is at most 0. (Comparisons do not round.)"""
        return self.mid <= -self.rad

    @property
    def is_positive(self) -> Tensor:
        """Bool tensor, true where every number inside is above 0."""
        return self.mid > self.rad

    def __getitem__(self, index: Any) -> Ball:
        return Ball(self.mid[index], self.rad[index])

    def __repr__(self) -> str:
        return f"Ball(mid={self.mid!r}, rad={self.rad!r})"

    # |X + Y − fl(a + b)| ≤ r + s + u |fl(a + b)|
    def __add__(self, other: Any) -> Ball:
        other = self._beside(other)
        mid = self.mid + other.mid
        return Ball(mid, raised(self.rad + other.rad + rounding_of(mid), 2))

    __radd__ = __add__

    def __neg__(self) -> Ball:
        return Ball(-self.mid, self.rad)

    def __sub__(self, other: Any) -> Ball:
        return self + -self._beside(other)

    def __rsub__(self, other: Any) -> Ball:
        return self._beside(other) + -self

    # |X Y − fl(a b)| ≤ |a| s + r (|b| + s) + u |fl(a b)| + η, and 0 times anything is 0
    def __mul__(self, other: Any) -> Ball:
        other = self._beside(other)
        mid = self.mid * other.mid
        rad = self.mid.abs() * other.rad + self.rad * (other.mid.abs() + other.rad) + rounding_of(mid)
        return Ball(mid, torch.where(self.is_zero | other.is_zero, rad, raised_products(rad, 6)))

    __rmul__ = __mul__

    # |X/Y − a/b| ≤ (r + |a/b| s) / (|b| − s) if |b| > s; and fl(a/b) is within u |fl(a/b)| + η of a/b
    def __truediv__(self, other: Any) -> Ball:
        other = self._beside(other)
        smallest = other.mignitude
        mid = self.mid / other.mid
        above = raised_products(self.rad + raised_products(mid.abs(), 1) * other.rad, 3)
        rad = raised_products(above / smallest + rounding_of(mid), 3)
        exact = self.is_zero & (other.rad < torch.inf)
        rad = torch.where(exact, 0, rad)
        return Ball(mid, torch.where(smallest > 0, rad, torch.inf))

    def __rtruediv__(self, other: Any) -> Ball:
        return self._beside(other) / self

    # |√X − √a| = |X − a| / (√X + √a) ≤ r / √a. PyTorch's √ is an elementary function: it may miss the nearest number.
    def __pow__(self, exponent: Any) -> Ball:
        if isinstance(exponent, Ball) and exponent.shape == () and exponent.is_exact:
            exponent = float(exponent.mid)
        if not isinstance(exponent, float) or exponent != 0.5:
            raise ArgumentError(f"ball: the only power there is is the square root, found the exponent {exponent!r}")
        mid = self.mid.sqrt()
        smallest = mid * (1 - 2 * ELEMENTARY_ULPS * EPSILON)
        change = torch.where(self.rad == 0, 0, self.rad / smallest)
        rad = raised_products(change + (ELEMENTARY_ULPS + 1) * EPSILON * mid, 4)
        return Ball(mid, torch.where(self.mid >= self.rad, torch.where(self.is_zero, 0, rad), torch.inf))

    # |X Y − fl(a b)| ≤ |a| (γ_n |b| + s) + r (|b| + s), in matrices, n the inner size. Of exact operands the radii drop
    # out, and a product of matrices with them; the growth γ_n goes to what is smaller or at hand anyway.
    def __matmul__(self, other: Any) -> Ball:
        other = self._beside(other)
        a, r, b, s = self.mid.abs(), self.rad, other.mid.abs(), other.rad
        terms = self.shape[-1]
        growth = gamma(terms) * (1 + 4 * EPSILON)
        # Where nothing can underflow, zeros need no telling apart, and no number need be looked at twice.
        first, second = self.least, other.least
        safe = growth * min(first, second, 1.0) * min(max(first, second), 1.0) >= 2 * TINY

        def grown(magnitude: Tensor) -> Tensor:
            scaled = growth * magnitude
            return scaled if safe else torch.where(magnitude == 0, 0, scaled + TINY)

        if self.is_exact and other.is_exact:
            rad = growth * raised(a @ b, terms)
        elif other.is_exact:
            rad = raised(grown(a) + r, 1) @ b
        else:
            rad = a @ raised(grown(b) + s, 1)
            if not self.is_exact:
                rad = rad + r @ raised(b + s, 1)
        rad = raised(rad, terms + 1)
        # Each of the products in a sum loses at most η, those of the midpoint and those of the radius: TINY is more.
        return Ball(self.mid @ other.mid, rad if safe or terms == 0 else rad + TINY)

    def __rmatmul__(self, other: Any) -> Ball:
        return self._beside(other) @ self

    # |Σ X − fl(Σ a)| ≤ Σ r + γ_{n−1} Σ |a|
    def sum(self, axis: int) -> Ball:
        """The sum along ``axis``; of an empty axis, exactly 0."""
        terms = self.shape[axis]
        mid, rad = self.mid.sum(axis), self.rad.sum(axis)
        if terms > 1:
            total = raised(self.mid.abs().sum(axis), terms)
            rad = rad + torch.where(total == 0, 0, raised_products(gamma(terms - 1) * total, 1))
        return Ball(mid, raised(rad, terms + 1))

    def _beside(self, other: Any) -> Ball:
        if isinstance(other, Ball):
            return other
        if isinstance(other, Tensor):
            return Ball.exact(other)
        if isinstance(other, int | float | Fraction):
            return Ball.of_number(other, self)
        raise ArgumentError(f"ball: expected a ball, a tensor or a number, found {type(other).__name__}")


def hull(first: Ball, second: Ball) -> Ball:
    """The smallest ball, up to rounding, around two balls: for every number of either."""
    mid = (first.mid + second.mid) / 2
    reach = [(ball.mid - mid).abs() * (1 + 4 * gamma(1)) + ball.rad for ball in (first, second)]
    return Ball(mid, raised(torch.maximum(*reach), 3))
