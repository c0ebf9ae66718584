"""The chain rule's primitives on balls.

An elementary function f is enclosed by its value at the midpoint and a bound L of |f'| over the whole ball:
``|f(X) − fl(f(a))| ≤ L r + |f(a) − fl(f(a))|``, the last term being what :mod:`.rounding` assumes of PyTorch.
"""

import math
from fractions import Fraction

import torch
from torch import Tensor

from lean_mnist.chainrule.arrays import Primitives
from lean_mnist.enclosure.ball import Ball, hull
from lean_mnist.enclosure.products import accurate_product
from lean_mnist.enclosure.rounding import ELEMENTARY_ULPS, EPSILON, TINY, raised, raised_products


class BallPrimitives(Primitives):
    """The operations of ``chainrule.arrays.Primitives`` on balls; labels are plain int64 tensors.

    They are all that ball arithmetic knows of activations and losses: whatever the chain rule writes with them is
    enclosed as it stands.
    """

    def affine(self, x_BD: Ball, weight_HD: Ball, bias_H: Ball | None) -> Ball:
        """``x Wᵀ + b``, the product enclosed as sharply as its operands allow."""
        z_BH = accurate_product(x_BD, weight_HD.T)
        return z_BH if bias_H is None else z_BH + bias_H

    def where_nonpositive(self, condition: Ball, then: Ball | int, otherwise: Ball) -> Ball:
        """``then`` where the condition is at most 0, else ``otherwise``; where its ball leaves it open, around both."""
        if not isinstance(then, Ball):
            then = Ball.of_number(then, otherwise)
        nonpositive, positive = condition.is_nonpositive, condition.is_positive
        mid = torch.where(nonpositive, then.mid, otherwise.mid)
        rad = torch.where(nonpositive, then.rad, otherwise.rad)
        decided = nonpositive | positive
        if not decided.all():
            both = hull(then, otherwise)
            mid = torch.where(decided, mid, both.mid)
            rad = torch.where(decided, rad, torch.where(condition.rad < torch.inf, both.rad, torch.inf))
        return Ball(mid, rad)

    def exp(self, x: Ball) -> Ball:
        """``e^X``: ``|e^X − e^a| ≤ e^a (e^r − 1)``."""
        mid = torch.exp(x.mid)
        # e^(a + r) is an upper bound as well, and the better one where r is large
        above = torch.nextafter(x.mid + x.rad, mid.new_tensor(torch.inf))
        change = torch.minimum(_above(mid) * _above(torch.expm1(x.rad)), _above(torch.exp(above)))
        return _around(mid, torch.where(x.rad == 0, 0, change))

    def log(self, x: Ball) -> Ball:
        """``log X``: ``|log X − log a| ≤ r / (a − r)``, where all of the ball is positive."""
        smallest = torch.where(x.is_positive, x.mignitude, 0)
        inside = x.mid.where(smallest > 0, 1)
        known = _around(torch.log(inside), torch.where(x.rad == 0, 0, x.rad / smallest))
        return Ball(known.mid, known.rad.where(smallest > 0, torch.inf))

    def tanh(self, x: Ball) -> Ball:
        """``tanh X``: its slope ``4 e^(−2|x|) / (1 + e^(−2|x|))²`` is largest at the smallest ``|x|``, its range 2."""
        change = _bounded_change(x, 4 * _logistic_slope(2 * x.mignitude), 2)
        return _around(torch.tanh(x.mid), change)

    def sigmoid(self, x: Ball) -> Ball:
        """``σ(X)``: its slope ``e^(−|x|) / (1 + e^(−|x|))²`` is largest at the smallest ``|x|``, its range 1."""
        return _around(torch.sigmoid(x.mid), _bounded_change(x, _logistic_slope(x.mignitude), 1))

    def erf(self, x: Ball) -> Ball:
        """``erf X``: its slope ``(2/√π) e^(−x²)`` is largest at the smallest ``|x|``, its range 2; 2/√π = 1.12837…"""
        square = torch.nextafter(x.mignitude.square(), x.mid.new_zeros(()))
        return _around(torch.erf(x.mid), _bounded_change(x, 1.13 * _above(torch.exp(-square)), 2))

    def row_shift(self, x_BC: Ball) -> Ball:
        """A shift of each row, near its largest number; exact, since it cancels out of every formula it is used in."""
        return Ball.exact(x_BC.mid.amax(dim=1, keepdim=True))

    def spread(self, value: Ball, like_B: Ball) -> Ball:
        """A number for each entry of ``like``."""
        return Ball(value.mid.expand(like_B.shape), value.rad.expand(like_B.shape))

    def take_label(self, x_BC: Ball, labels_B: Tensor) -> Ball:
        """Each row's entry at its label, ``(B,)``."""
        column = labels_B.unsqueeze(1)
        return Ball(x_BC.mid.gather(1, column).squeeze(1), x_BC.rad.gather(1, column).squeeze(1))

    def one_hot(self, labels_B: Tensor, like_BC: Ball) -> Ball:
        """1 at each row's label, else 0; exact."""
        return Ball.exact(torch.zeros_like(like_BC.mid).scatter_(1, labels_B.unsqueeze(1), 1))

    def constant(self, value: float, like: Ball) -> Ball:
        """The decimal that the caller wrote (0.01), which a formula means, not the binary number nearest to it."""
        return Ball.of_number(Fraction(repr(float(value))), like)

    def pi(self, like: Ball) -> Ball:
        """``π``, between ``math.pi`` and the next number up: ``π − math.pi`` is 1.22…·10⁻¹⁶, a unit 4.44…·10⁻¹⁶."""
        return Ball(like.mid.new_tensor(math.pi), like.mid.new_tensor(1.2246467991473533e-16))


def _above(value: Tensor) -> Tensor:
    """An upper bound of the nonnegative real number of which PyTorch's elementary function computed ``value``."""
    return raised(value * (1 + 2 * ELEMENTARY_ULPS * EPSILON), 1) + 2 * TINY


def _around(mid: Tensor, change: Tensor) -> Ball:
    """The ball around an elementary function's computed value, whose real one changes by ``change`` over the ball."""
    own = (ELEMENTARY_ULPS + 1) * EPSILON * mid.abs() + 2 * TINY  # a little more: the ulps are of the true value
    return Ball(mid, raised_products(change + own, 8))


def _logistic_slope(x: Tensor) -> Tensor:
    """``e^−x / (1 + e^−x)²`` for ``x ≥ 0``, rounded up: it grows with e^−x, which is at most 1."""
    e = _above(torch.exp(-x)).clamp(max=1)
    return raised_products(e / (1 + e).square(), 4)


def _bounded_change(x: Ball, slope: Tensor, largest: float) -> Tensor:
    """Bound on the change over the ball of a function of that slope, and of values at most ``largest`` apart."""
    bounded = torch.minimum(x.rad * slope, x.mid.new_tensor(largest))
    # Of a ball that may stand for no real number at all, nothing finite is said.
    return torch.where(x.rad == 0, 0, torch.where(x.rad == torch.inf, torch.inf, bounded))


Ball.__primitives__ = BallPrimitives()
