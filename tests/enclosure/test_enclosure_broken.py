"""The containment tests can fail: ball arithmetic with one rule forgotten is found out by the same runs."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lean_mnist.enclosure import products, rounding
from lean_mnist.enclosure.ball import Ball
from tests.support.enclosure_rational import run_rational

CONTAINMENTS = 6_000


make, multiply, split = Ball.__init__, Ball.__mul__, products._split


def halved(self: Ball, mid: Tensor, rad: Tensor, floor: float | None = None) -> None:
    make(self, mid, rad / 2, floor)


def without_second_order(x: Ball, y: Any) -> Ball:
    y = x._beside(y)
    return Ball(x.mid * y.mid, x.mid.abs() * y.rad + x.rad * y.mid.abs())


def without_radii(x: Ball, y: Any) -> Ball:
    return Ball.exact(x.mid @ x._beside(y).mid)


def nearest_branch(self: Any, condition: Ball, then: Any, otherwise: Ball) -> Ball:
    if not isinstance(then, Ball):
        then = Ball.of_number(then, otherwise)
    nonpositive = condition.mid <= 0
    return Ball(torch.where(nonpositive, then.mid, otherwise.mid), torch.where(nonpositive, then.rad, otherwise.rad))


def without_underflow(mid: Tensor, change: Tensor) -> Ball:
    return Ball(mid, change + 2.0**-49 * mid.abs())


# What is forgotten: where, in lean_mnist.enclosure, and by what it is replaced.
ARITHMETIC: dict[str, tuple[str, Any]] = {
    "rounding of a sum": ("ball.rounding_of", torch.zeros_like),
    "half of the rounding of a sum": ("ball.rounding_of", lambda result: 2.0**-55 * result.abs()),
    "rounding of products and long sums": ("ball.gamma", lambda terms: 0.0),
    "rounding of the radius itself": ("ball.raised", lambda radius, roundings: radius),
    "underflow of products": ("ball.raised_products", rounding.raised),
    "underflow of matrix products": ("ball.TINY", 0.0),
    "radius of the left operand of a product": ("ball.Ball.__mul__", lambda x, y: multiply(Ball.exact(x.mid), y)),
    "second-order term of a product": ("ball.Ball.__mul__", without_second_order),
    "radii in a matrix product": ("ball.Ball.__matmul__", without_radii),
    "half of every radius": ("ball.Ball.__init__", halved),
    "the mignitude of a divisor": ("ball.Ball.mignitude", property(lambda x: x.mid.abs())),
    "the other branch": ("primitives.BallPrimitives.where_nonpositive", nearest_branch),
    "a decimal is no binary number": (
        "primitives.BallPrimitives.constant", lambda self, value, like: Ball.of_number(value, like)),
    "the second ball of a hull": ("primitives.hull", lambda first, second: first),
    "the last rounding of a forward product": ("products.rounding_of", torch.zeros_like),
    "the small parts of a forward product": ("products.gamma", lambda terms: 0.0),
    "the length of the parts of a forward product": (
        "products._split", lambda matrix, largest, bits: split(matrix, largest, 30)),
    "the radii of a forward product": ("products._nonnegative_product", lambda a, b: 0),
}  # fmt: skip

ELEMENTARY: dict[str, tuple[str, Any]] = {
    "errors of elementary functions": ("primitives.ELEMENTARY_ULPS", -1.0),
    "underflow of elementary functions": ("primitives._around", without_underflow),
    "the slope where it is largest": ("primitives._logistic_slope", lambda x: torch.exp(-x) / 8),
    "the radius of the argument": ("primitives._bounded_change", lambda x, slope, largest: torch.zeros_like(x.mid)),
    "the growth of exp": ("primitives.torch.expm1", torch.zeros_like),
    "an error of the root": ("ball.ELEMENTARY_ULPS", -0.6),
    "π is not math.pi": ("primitives.BallPrimitives.pi", lambda self, like: Ball.of_number(math.pi, like)),
}


@pytest.mark.parametrize("forgotten", ARITHMETIC)
def test_broken_arithmetic_is_found_out(monkeypatch: pytest.MonkeyPatch, forgotten: str) -> None:
    target, replacement = ARITHMETIC[forgotten]
    monkeypatch.setattr(f"lean_mnist.enclosure.{target}", replacement)
    assert run_rational(7, CONTAINMENTS, until_escape=True).escaped, (
        f"seed 7: nobody noticed that {forgotten!r} is missing"
    )


@pytest.mark.parametrize("forgotten", ELEMENTARY)
def test_broken_elementary_functions_are_found_out(monkeypatch: pytest.MonkeyPatch, forgotten: str) -> None:
    pytest.importorskip("flint")
    from tests.support.enclosure_arb import run_arb

    target, replacement = ELEMENTARY[forgotten]
    monkeypatch.setattr(f"lean_mnist.enclosure.{target}", replacement)
    assert run_arb(7, CONTAINMENTS, until_escape=True).escaped, f"seed 7: nobody noticed that {forgotten!r} is missing"


def test_the_same_runs_pass_unbroken() -> None:
    assert not run_rational(7, CONTAINMENTS).escaped
