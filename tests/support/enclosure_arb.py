"""Arb (python-flint) as the judge: the elementary functions, and the chain rule itself run at 300 bits.

``ArbArray`` is one more kind of array that joins the chain rule by ``__primitives__``. Its numbers are Arb's own balls,
so narrow that for our purposes they are the real numbers.
"""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import torch
from flint import arb, ctx, fmpq

from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.chainrule.arrays import primitives
from lean_mnist.enclosure.ball import Ball
from tests.support.enclosure_rational import Tally, number, radius, random_ball, tame_ball

BITS = 300
EXACT_BITS = 2300  # any sum of two or three float64 numbers is exact


def to_arb(value: Any) -> arb:
    ctx.prec = BITS
    if isinstance(value, Fraction):
        return arb(fmpq(value.numerator, value.denominator))
    return arb(value)


def _sigmoid(x: arb) -> arb:
    return 1 / (1 + (-x).exp()) if x > 0 else x.exp() / (1 + x.exp())  # no overflow, which even Arb has


FUNCTIONS = {"exp": arb.exp, "log": arb.log, "tanh": arb.tanh, "erf": arb.erf, "sigmoid": _sigmoid, "sqrt": arb.sqrt}
_each = {name: np.frompyfunc(function, 1, 1) for name, function in FUNCTIONS.items()}


class ArbArray:
    """A NumPy object array of Arb's balls."""

    __primitives__: ClassVar[Any]

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, dtype=object)

    @classmethod
    def of_tensor(cls, tensor: torch.Tensor) -> ArbArray:
        return cls(np.frompyfunc(to_arb, 1, 1)(np.asarray(tensor.detach().double().numpy(), dtype=object)))

    shape = property(lambda self: self.values.shape)
    T = property(lambda self: ArbArray(self.values.T))

    def __getitem__(self, index: Any) -> ArbArray:
        return ArbArray(self.values[index])

    def sum(self, axis: int) -> ArbArray:
        return ArbArray(self.values.sum(axis))

    def __add__(self, other: object) -> ArbArray:
        return ArbArray(self.values + _values(other))

    def __sub__(self, other: object) -> ArbArray:
        return ArbArray(self.values - _values(other))

    def __mul__(self, other: object) -> ArbArray:
        return ArbArray(self.values * _values(other))

    def __truediv__(self, other: object) -> ArbArray:
        return ArbArray(self.values / _values(other))

    def __matmul__(self, other: object) -> ArbArray:
        return ArbArray(self.values @ _values(other))

    def __neg__(self) -> ArbArray:
        return ArbArray(-self.values)

    def __rsub__(self, other: object) -> ArbArray:
        return ArbArray(_values(other) - self.values)

    __radd__, __rmul__ = __add__, __mul__


def _values(other: object) -> Any:
    return other.values if isinstance(other, ArbArray) else other


class ArbPrimitives:
    """The chain rule's primitives at 300 bits."""

    def __init__(self) -> None:
        for name in FUNCTIONS:
            setattr(self, name, lambda x, name=name: ArbArray(_each[name](x.values)))

    def affine(self, x: Any, weight: Any, bias: Any) -> Any:
        return x @ weight.T if bias is None else x @ weight.T + bias

    def where_nonpositive(self, condition: Any, then: Any, otherwise: Any) -> Any:
        nonpositive = np.frompyfunc(lambda c: bool(c <= 0), 1, 1)(condition.values).astype(bool)
        return ArbArray(np.where(nonpositive, _values(then), otherwise.values))

    def row_shift(self, x: Any) -> Any:
        return 0

    def spread(self, value: Any, like: Any) -> Any:
        filled = np.empty(like.shape, dtype=object)
        filled[...] = np.asarray(_values(value)).item()
        return ArbArray(filled)

    def divide(self, value: Any, by: Any) -> Any:
        return value / to_arb(by)

    def take_label(self, x: Any, labels: Any) -> Any:
        return ArbArray(x.values[np.arange(len(labels)), labels.numpy()])

    def one_hot(self, labels: Any, like: Any) -> Any:
        encoded = np.full(like.shape, to_arb(0), dtype=object)
        encoded[np.arange(len(labels)), labels.numpy()] = to_arb(1)
        return ArbArray(encoded)

    def constant(self, value: Any, like: Any) -> Any:
        return to_arb(Fraction(repr(value)))

    def pi(self, like: Any) -> Any:
        return to_arb(0) + arb.pi()


ArbArray.__primitives__ = ArbPrimitives()


class ArbTally(Tally):
    """Containment of what Arb says: its whole ball, which at 300 bits is a point to us, must be inside."""

    def ask(self, name: str, ball: Ball, exact: object) -> None:
        ctx.prec = EXACT_BITS
        super().ask(name, ball, _values(exact))
        ctx.prec = BITS

    def contains(self, mid: float, rad: float, value: Any) -> bool:
        return bool(abs(value - arb(mid)) <= arb(rad))


# Where an elementary function is delicate: overflow, underflow, saturation, and its zero.
EDGES = [0.0, -0.0, 1.0, 709.78, 709.79, -708.4, -720.0, -745.1, -745.2, 1e4, -1e4, 19.06, -19.07, 36.74, -37.0, 5.9,
         -5.95, 26.5, -38.5, 2.0**-1074, 2.0**-1022, -(2.0**-1030), 1e-8, -1e-160, 1 - 2.0**-53, 1e308]  # fmt: skip


def points(rng: random.Random, count: int) -> np.ndarray:
    """Numbers for elementary functions: edges, their surroundings, and every scale."""
    drawn = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.1:
            drawn.append(rng.choice(EDGES))
        elif kind < 0.2:
            drawn.append(rng.choice(EDGES) * (1 + rng.uniform(-1, 1) * 1e-3))
        elif kind < 0.35:
            drawn.append(number(rng))
        else:
            drawn.append(rng.gauss(0, rng.choice([0.1, 1, 5, 30, 400])))
    return np.array(drawn)


def function_ball(rng: random.Random, count: int) -> Ball:
    mids = points(rng, count)
    rads = [rng.choice([0.0, radius(rng, mid), abs(mid) * 2.0 ** rng.uniform(-60, -20)]) for mid in mids.tolist()]
    return Ball(torch.from_numpy(mids), torch.tensor(rads, dtype=torch.float64))


def arb_in(rng: random.Random, ball: Ball) -> np.ndarray:
    """One exact number out of every ball."""
    ctx.prec = EXACT_BITS
    drawn = np.empty(tuple(ball.shape), dtype=object)
    for index in np.ndindex(tuple(ball.shape)):
        place = rng.choice([-1, 1, 0, rng.randint(-64, 64) / 64])
        rad = min(float(ball.rad[index]), 1e300)
        drawn[index] = arb(float(ball.mid[index])) + arb(place) * arb(rad)
    ctx.prec = BITS
    return drawn


def run_elementary(rng: random.Random, tally: ArbTally, count: int = 60) -> None:
    """Each elementary function, root and activation once, on ``count`` balls."""
    x = function_ball(rng, count)
    X = ArbArray(arb_in(rng, x))
    ours, exact = primitives(x), primitives(X)
    for name in FUNCTIONS:
        if name not in ("log", "sqrt"):
            tally.ask(name, getattr(ours, name)(x), getattr(exact, name)(X))
    near, positive = Ball(x.mid.abs().clamp(max=1e290), x.rad), np.frompyfunc(lambda v: bool(v > 0), 1, 1)
    inside = arb_in(rng, near)
    keep = np.flatnonzero(positive(inside))
    near, N = near[torch.from_numpy(keep)], ArbArray(inside[keep])
    tally.ask("log", ours.log(near), exact.log(N))
    tally.ask("sqrt", near ** ours.constant(0.5, near), ArbArray(_each["sqrt"](N.values)))
    n, value = rng.randint(0, 99), rng.uniform(-3, 3)
    for name, ball, number_ in (
        ("sqrt", ours.constant(n, x) ** 0.5, exact.constant(n, X).sqrt()),
        ("pi", ours.pi(x), exact.pi(X)),
        ("constant", ours.constant(value, x), exact.constant(value, X)),
    ):
        tally.ask(name, ball[None], np.array([number_], dtype=object))
    z, d = tame_ball(rng, 8), random_ball(rng, 8)
    Z, D = ArbArray(arb_in(rng, z)), ArbArray(arb_in(rng, d))
    for activation in ACTIVATIONS.values():
        (h, kept), (exact_h, exact_kept) = activation.forward(z), activation.forward(Z)
        tally.ask(f"{activation.name} forward", h, exact_h)
        tally.ask(f"{activation.name} backward", activation.backward(kept, d), activation.backward(exact_kept, D))


def run_arb(seed: int, containments: int, *, until_escape: bool = False) -> ArbTally:
    """Whole rounds until that many containments were asked (a million take about a minute), or one failed."""
    rng, tally = random.Random(seed), ArbTally()
    while tally.asked < containments and not (until_escape and tally.escaped):
        run_elementary(rng, tally)
    return tally
