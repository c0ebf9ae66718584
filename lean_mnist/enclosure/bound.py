"""Bounds on the error of a computed gradient against the exact one, from both sides, rounded outward."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.enclosure.ball import Ball
from lean_mnist.enclosure.rounding import gamma
from lean_mnist.errors import ArgumentError
from lean_mnist.nn.parameters import unravelled


class Between(NamedTuple):
    """A real number that is proved to lie in ``[lower, upper]``."""

    lower: float
    upper: float


@dataclass(frozen=True)
class GradientBound:
    """Bounds on the error of the tensor ``name`` against the exact one that a ball encloses.

    - ``largest`` holds ``max |computed − exact|``, and ``index`` is where it may be that large;
    - ``relative`` holds ``‖computed − exact‖₂ / ‖exact‖₂`` (0 if both norms are 0, infinite if only the second is);
    - ``radius`` is ``‖rad‖₂ / ‖mid‖₂``, rounded up: how sharp the enclosure itself is.

    A computed number that is infinite or NaN is infinitely far from any real one.
    """

    name: str
    largest: Between
    relative: Between
    radius: float
    index: tuple[int, ...]

    def __str__(self) -> str:
        place = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        return (
            f"{self.name}: relative error {self.relative.lower:.3e} to {self.relative.upper:.3e}, "
            f"largest error {self.largest.lower:.3e} to {self.largest.upper:.3e} at {place or 'the number itself'} "
            f"(enclosure {self.radius:.1e})"
        )


@torch.no_grad()
def bound_gradient(name: str, computed: Tensor, exact: Ball) -> GradientBound:
    """Bounds of the error of ``computed`` (any floating dtype and shape) against the exact values inside ``exact``.

    ``||c − a| − r| ≤ |c − X| ≤ |c − a| + r`` for every X in the ball (a, r), number by number; norms follow, as they
    grow with every magnitude. Raises ``ArgumentError`` if the shapes differ.
    """
    if tuple(computed.shape) != tuple(exact.shape):
        raise ArgumentError(f"{name}: expected shape {tuple(exact.shape)}, found {tuple(computed.shape)}")
    if not computed.is_floating_point():
        raise ArgumentError(f"{name}: expected a floating dtype, found {computed.dtype}")
    if computed.numel() == 0:
        return GradientBound(name, Between(0.0, 0.0), Between(0.0, 0.0), 0.0, ())
    values = computed.detach().to(exact.mid.device, torch.float64)
    difference = Ball.exact(values) - exact  # of infinite radius where the computed number is no real one
    known_wrong = ~torch.isfinite(values) & torch.isfinite(exact.rad)
    nearest, farthest = difference.mignitude.masked_fill(known_wrong, math.inf), difference.magnitude

    error = Between(_norm(nearest).lower, _norm(farthest).upper)
    size = Between(_norm(exact.mignitude).lower, _norm(exact.magnitude).upper)
    # A real tensor has a finite norm, so an infinite error is an infinite relative one.
    least = math.inf if error.lower == math.inf else _over(error.lower, size.upper, -math.inf)
    return GradientBound(
        name=name,
        largest=Between(float(nearest.amax()), float(farthest.amax())),
        relative=Between(least, _over(error.upper, size.lower, math.inf)),
        radius=_over(_norm(exact.rad).upper, _norm(exact.mid.abs()).lower, math.inf),
        index=unravelled(int(farthest.argmax()), tuple(farthest.shape)),
    )


def _norm(magnitudes: Tensor) -> Between:
    """The 2-norm of nonnegative numbers, from both sides: ``γ_n`` bounds a sum of n squares in any order."""
    largest = float(magnitudes.amax())
    if largest == 0 or largest == math.inf:
        return Between(largest, largest)
    # Scaled by a power of 2 to a largest number in [½, 1), no square overflows, and what underflows is far below γ_n.
    exponent = math.frexp(largest)[1]
    half = -exponent // 2
    scaled = magnitudes * math.ldexp(1.0, half) * math.ldexp(1.0, -exponent - half)
    root = math.sqrt(float(scaled.square().sum()))
    slack = 2 * gamma(magnitudes.numel() + 8)
    return Between(
        math.nextafter(_scaled_back(root * (1 - slack), exponent), 0.0),
        math.nextafter(_scaled_back(root * (1 + slack), exponent), math.inf),
    )


def _scaled_back(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf


def _over(numerator: float, denominator: float, towards: float) -> float:
    """A quotient of nonnegative numbers, rounded ``towards`` an infinity; ``0/0`` is 0, and ``x/0`` infinite."""
    if numerator == 0:
        return 0.0
    if numerator == math.inf or denominator == 0:
        return math.inf
    quotient = numerator / denominator
    return max(0.0, math.nextafter(quotient, towards))
