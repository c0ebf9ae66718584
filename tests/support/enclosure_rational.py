"""Containment in exact rational arithmetic: every operation of a ball, on operands chosen to hurt, as data.

A case takes balls, draws one rational number out of every ball (an end of it more often than not), runs the operation
once on the balls and once on the rational numbers, and asks of every number of the exact result whether it is inside.
"""

import math
import random
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from lean_mnist.chainrule.arrays import primitives
from lean_mnist.enclosure.ball import Ball

# Where float64 is delicate: zeros, ones and their neighbours, both ends of the subnormal and the normal range.
DELICATE = [0.0, 0.0, 1.0, -1.0, 0.5, 3.0, 1 + 2.0**-52, 1 - 2.0**-53, -(2.0**-1074), 2.0**-1074, 2.0**-1022, 0.1,
            -(2.0**-1022) * (1 - 2.0**-52), 2.0**-537, 1e-300, -1e-160, 1e160, 1e300, 2.0**53 + 2]  # fmt: skip


def magnitude(rng: random.Random, spread: float) -> float:
    return rng.choice([-1, 1]) * rng.uniform(0.5, 1) * 2.0 ** rng.uniform(-spread, spread)


def number(rng: random.Random) -> float:
    kind = rng.random()
    if kind < 0.15:
        return rng.choice(DELICATE)
    if kind < 0.3:
        return float(rng.randint(-9, 9))
    if kind < 0.4:
        return magnitude(rng, 900)
    if kind < 0.47:
        return magnitude(rng, 40) * 2.0**-1040
    return magnitude(rng, 4)


def radius(rng: random.Random, mid: float) -> float:
    mid = float(mid)
    kind = rng.random()
    if kind < 0.35:
        return 0.0
    if kind < 0.45:
        return abs(number(rng))
    if kind < 0.5:
        return rng.randint(1, 5) * 2.0**-1074
    if kind < 0.55:
        return abs(mid)
    return abs(mid) * 2.0 ** rng.uniform(-60, 1)


def random_ball(rng: random.Random, *shape: int) -> Ball:
    """A ball of that shape. One in three is exact, and one in three is centred on 0, where nothing but radii rounds."""
    kind = rng.random()
    mids = np.array([0.0 if kind < 0.15 else number(rng) for _ in range(math.prod(shape))]).reshape(shape)
    rads = np.array([0.0 if kind > 0.67 else radius(rng, mid) for mid in mids.flat]).reshape(shape)
    return Ball(torch.from_numpy(mids), torch.from_numpy(rads))


def tame_ball(rng: random.Random, *shape: int) -> Ball:
    """A ball of moderate numbers, as pre-activations and gradients have."""
    mids = np.array([magnitude(rng, 3) for _ in range(math.prod(shape))]).reshape(shape)
    rads = np.array([rng.choice([0.0, abs(mid) * 2.0 ** rng.uniform(-54, -1)]) for mid in mids.flat]).reshape(shape)
    return Ball(torch.from_numpy(mids), torch.from_numpy(rads))


def number_in(rng: random.Random, mid: float, rad: float) -> Fraction:
    if rad == math.inf:
        rad = abs(number(rng))
    place = rng.choice([-1, 1, -1, 1, 0, rng.randint(-64, 64) / 64])
    return Fraction(mid) + Fraction(place) * Fraction(rad)


def numbers_in(rng: random.Random, ball: Ball) -> np.ndarray:
    """One rational number out of every ball."""
    drawn = np.empty(ball.shape, dtype=object)
    for index in np.ndindex(tuple(ball.shape)):
        drawn[index] = number_in(rng, float(ball.mid[index]), float(ball.rad[index]))
    return drawn


def fractions_of_tensor(tensor: torch.Tensor) -> np.ndarray:
    values = np.empty(tuple(tensor.shape), dtype=object)
    for index in np.ndindex(tuple(tensor.shape)):
        values[index] = Fraction(float(tensor[index]))
    return values


class Tally:
    """Number of containments that were asked, and those that failed."""

    def __init__(self) -> None:
        self.asked, self.finite = 0, 0
        self.escaped: list[str] = []

    def ask(self, name: str, ball: Ball, exact: object) -> None:
        exact = np.asarray(exact, dtype=object)
        assert tuple(ball.shape) == exact.shape, (name, ball.shape, exact.shape)
        mids, rads = ball.mid.numpy().ravel().tolist(), ball.rad.numpy().ravel().tolist()
        for mid, rad, value in zip(mids, rads, exact.ravel(), strict=True):
            self.asked += 1
            if math.isnan(mid) or math.isnan(rad) or math.isinf(mid):
                self.escaped.append(f"{name}: ({mid}, {rad}) is no ball")
            elif rad < math.inf:
                self.finite += 1
                if not self.contains(mid, rad, value):
                    self.escaped.append(f"{name}: {value} is not in ({mid!r}, {rad!r})")

    def contains(self, mid: float, rad: float, value: Any) -> bool:
        return bool(abs(value - Fraction(mid)) <= Fraction(rad))


def divisor_in(rng: random.Random, *shape: int) -> tuple[Ball, np.ndarray]:
    """A ball, and one number out of each that is not 0, though 0 may be inside as well."""
    while True:
        ball = random_ball(rng, *shape)
        drawn = numbers_in(rng, ball)
        if all(drawn.flat):
            return ball, drawn


def run_round(rng: random.Random, tally: Tally) -> None:
    """Every operation once, on small random shapes."""
    m, n, k = rng.randint(1, 4), rng.randint(1, 4), rng.choice([1, 2, 3, 5, 17])
    x, y, row = random_ball(rng, m, n), random_ball(rng, m, n), random_ball(rng, n)
    X, Y, R = (numbers_in(rng, ball) for ball in (x, y, row))
    tally.ask("x + y", x + y, X + Y)
    tally.ask("x - y", x - y, X - Y)
    tally.ask("x + row", x + row, X + R)
    tally.ask("-x", -x, -X)
    tally.ask("x * y", x * y, X * Y)
    tally.ask("x * row", x * row, X * R)
    tally.ask("x.T", x.T, X.T)
    tally.ask("x[:, 0]", x[:, 0], X[:, 0])
    tally.ask("x.sum(0)", x.sum(0), X.sum(0))
    tally.ask("x.sum(1)", x.sum(1), X.sum(1))
    whole, real = rng.randint(-7, 7), number(rng)
    tally.ask("number * x", real * x, Fraction(real) * X)
    tally.ask("x + number", x + real, X + Fraction(real))
    tally.ask("whole - x", whole - x, whole - X)
    tally.ask("x / whole", x / (whole or 3), X / Fraction(whole or 3))
    tensor = y.mid
    tally.ask("tensor * x", tensor * x, fractions_of_tensor(tensor) * X)
    tally.ask("tensor - x", tensor - x, fractions_of_tensor(tensor) - X)
    divisor, D = divisor_in(rng, m, n)
    tally.ask("x / divisor", x / divisor, X / D)
    tally.ask("whole / divisor", whole / divisor, whole / D)

    draw = rng.choice([random_ball, tame_ball, tame_ball])
    a, b = draw(rng, m, k), draw(rng, k, n)
    if rng.random() < 0.3:
        a = Ball.exact(a.mid)
    if rng.random() < 0.3:
        b = Ball.exact(b.mid)
    A, B = numbers_in(rng, a), numbers_in(rng, b)
    tally.ask("a @ b", a @ b, A @ B)
    tally.ask("tensor @ b", a.mid @ b, fractions_of_tensor(a.mid) @ B)
    tally.ask("a.sum(1)", a.sum(1), A.sum(1))
    run_primitives(rng, tally)


def run_primitives(rng: random.Random, tally: Tally) -> None:
    """Every primitive of the chain rule that is rational."""
    m, d, c = rng.randint(1, 4), rng.choice([1, 2, 3, 5, 40]), rng.randint(1, 4)
    draw = rng.choice([random_ball, tame_ball, tame_ball])
    x, weight, bias = draw(rng, m, d), draw(rng, c, d), draw(rng, c)
    if rng.random() < 0.5:
        x, weight = Ball.exact(x.mid), Ball.exact(weight.mid)
    X, W, B = (numbers_in(rng, ball) for ball in (x, weight, bias))
    ours, exact = primitives(x), primitives(X)
    tally.ask("affine", ours.affine(x, weight, bias), exact.affine(X, W, B))
    tally.ask("affine, no bias", ours.affine(x, weight, None), exact.affine(X, W, None))

    # What the first half adds, the second takes back, all but the last digits.
    half_x, half_w = tame_ball(rng, m, d).mid, tame_ball(rng, c, d).mid
    twice = Ball.exact(torch.cat([half_x, half_x], 1))
    against = Ball.exact(torch.cat([half_w, -half_w * (1 + 2.0 ** -rng.randint(20, 51))], 1))
    cancelled = exact.affine(fractions_of_tensor(twice.mid), fractions_of_tensor(against.mid), None)
    tally.ask("affine, cancelling", ours.affine(twice, against, None), cancelled)

    condition, then, otherwise = (random_ball(rng, m, c) for _ in range(3))
    C, T, O = (numbers_in(rng, ball) for ball in (condition, then, otherwise))  # noqa: E741
    tally.ask("where(c, 0, o)", ours.where_nonpositive(condition, 0, otherwise), exact.where_nonpositive(C, 0, O))
    tally.ask("where(c, t, o)", ours.where_nonpositive(condition, then, otherwise), exact.where_nonpositive(C, T, O))
    tally.ask("where(c, 0, c)", ours.where_nonpositive(condition, 0, condition), exact.where_nonpositive(C, 0, C))

    tally.ask("sum", then.sum(1), T.sum(1))
    tally.ask("column", bias[:, None], B[:, None])
    by = rng.randint(1, 200)
    tally.ask("divide", ours.divide(then, by), exact.divide(T, by))
    scalar = random_ball(rng)
    S = numbers_in(rng, scalar)
    tally.ask("spread", ours.spread(scalar, bias), exact.spread(S.item(), B))
    labels = np.array([rng.randrange(c) for _ in range(m)])
    labels_B = torch.from_numpy(labels)
    tally.ask("take_label", ours.take_label(then, labels_B), exact.take_label(T, labels))
    tally.ask("one_hot", ours.one_hot(labels_B, then), exact.one_hot(labels, T))
    value = rng.choice([0.01, 0.1, 0.5, 1e-5, 0.3, 1 / 3, 7.0, 0.0, rng.random()])
    tally.ask("constant", ours.constant(value, x), exact.constant(value, X))


def run_rational(seed: int, containments: int, *, until_escape: bool = False) -> Tally:
    """Whole rounds until that many containments were asked (a million take a minute or two), or one failed."""
    rng, tally = random.Random(seed), Tally()
    while tally.asked < containments and not (until_escape and tally.escaped):
        run_round(rng, tally)
    return tally
