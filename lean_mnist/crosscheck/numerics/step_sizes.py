"""Directional differences at a ladder of step sizes, the noise of a function, and what the two say about a slope.

With ``φ(t) = ⟨v, f(x + t u)⟩`` and ``g``, said to be ``Jᵀ v``, there are two residual slopes at each step ``h``::

    p(h) = (φ(h) − φ(0) − ⟨x₊ − x, g⟩) / h          m(h) = (φ(0) − φ(−h) − ⟨x − x₋, g⟩) / h

where ``x₊`` and ``x₋`` are the points actually reached in the function's precision. For a right ``g`` and smooth ``f``
their mean falls like ``h²`` to round-off, and is extrapolated (Richardson; Ridders, *Advances in Engineering Software*
4, 1982). ``p − m`` is the second difference ``h φ''``: where it does not fall with ``h``, the slopes on the two sides
differ and the point is at a kink. ``h max(|p|, |m|)`` is the remainder of the Taylor test.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lean_mnist.crosscheck.calls import CallFailed, dot, norm
from lean_mnist.crosscheck.numerics.perturbation import Jitter

FACTOR = 4.0  # between step sizes
# Exponents of 2 of the largest and the smallest step, in units of the input's size, by the function's precision.
STEPS = {
    torch.float64: (-4, -24),
    torch.float32: (-1, -11),
    torch.float16: (-1, -7),
    torch.bfloat16: (0, -6),
}
# Exponents of 2 of the spacings at which the noise is estimated. The median of the three estimates counts, or of the
# first two the larger, where they agree.
SPACINGS = {
    torch.float64: (-40, -26, -14),
    torch.float32: (-20, -15, -10),
    torch.float16: (-9, -7, -5),
    torch.bfloat16: (-6, -5, -4),
}
# How far from the point it is estimated: a kink at the point itself would look like noise.
ASIDE = {torch.float64: 2.0**-6, torch.float32: 2.0**-5, torch.float16: 2.0**-3, torch.bfloat16: 2.0**-2}
NOISE_POINTS, NOISE_ORDER = 9, 6
AGREEING = 4.0  # at most this factor between two estimates
JITTERS = 3
NOISE_MARGIN = 4.0  # times its standard deviation
DENIAL_MARGIN = 2 * NOISE_MARGIN  # of a smaller step's entry, whose orders add the noise of several steps
FEWEST_RUNGS = 3  # below which agreement may be luck
TINY_STEP = 2.0**-15
KINK_RATIO = 0.5  # of p − m at one step and the next larger: 1/4 where smooth, 1 at a kink

Evaluate = Callable[[Sequence[Tensor]], "list[Tensor]"]


@dataclass(frozen=True)
class Rung:
    """One step size ``h``, the residual slopes ``p`` and ``m``, and the noise that is left in them."""

    h: float
    p: float
    m: float
    noise: float

    @property
    def centre(self) -> float:
        return (self.p + self.m) / 2

    @property
    def jump(self) -> float:
        return abs(self.p - self.m)

    @property
    def remainder(self) -> float:
        return self.h * max(abs(self.p), abs(self.m))


@dataclass(frozen=True)
class Slope:
    """The extrapolated difference between the true slope and ``⟨u, g⟩``, with its own error estimate."""

    residual: float
    error: float


@dataclass(frozen=True)
class Line:
    """The direction ``u`` (one tensor for each point) through the points ``x``, and upstream gradients ``v``."""

    evaluate: Evaluate
    points: Sequence[Tensor]
    directions: Sequence[Tensor]
    upstream: Sequence[Tensor]

    def at(self, t: float) -> tuple[list[Tensor], list[Tensor]]:
        """The points reached at ``t``, in their own precision, and how far (in float64) each was moved."""
        reached = [(x.double() + t * u).to(x.dtype) for x, u in zip(self.points, self.directions, strict=True)]
        return reached, [y.double() - x.double() for y, x in zip(reached, self.points, strict=True)]


@torch.no_grad()
def climb(
    line: Line, gradient: Sequence[Tensor], noise: float, exponents: tuple[int, int], enough: float | None = None
) -> list[Rung]:
    """The rungs from the largest step down; those where the function leaves its domain are left out.

    Given ``enough``, no more steps are taken once the slope is known to it, or as well as the noise lets smaller steps
    tell, and is that of ``gradient``. (A slope that is not is looked into with all of them: it may be that of a kink.)
    """
    start = line.evaluate(line.points)
    rungs = []
    h = 2.0 ** exponents[0]
    while h >= 2.0 ** exponents[1]:
        slopes = []
        for sign in (1, -1):
            reached, moved = line.at(sign * h)
            difference = [y.double() - y0.double() for y, y0 in zip(line.evaluate(reached), start, strict=True)]
            slopes.append((dot(line.upstream, difference) - dot(moved, gradient)) / (sign * h))
        if all(map(math.isfinite, slopes)):
            rungs.append(Rung(h, slopes[0], slopes[1], noise / h))
        h /= FACTOR
        if enough is not None and len(rungs) > FEWEST_RUNGS and _told(rungs, enough, NOISE_MARGIN * noise / h):
            break
    return rungs


def _told(rungs: Sequence[Rung], enough: float, noise: float) -> bool:
    """Whether the slope is that of the gradient, and known as well as is needed, or as a smaller step could tell."""
    slope = extrapolate(rungs)
    return slope is not None and abs(slope.residual) <= slope.error + enough and slope.error <= max(enough, noise)


@torch.no_grad()
def noise_of(line: Line, exponents: Sequence[int]) -> float:
    """The standard deviation of the rounding errors in ``φ`` (Moré and Wild, *Estimating computational noise*, 2011).

    Sixth differences of equally spaced values annihilate what is smooth, and multiply independent errors of standard
    deviation σ to ``√(12!/6!²) σ``. At least the rounding of the outputs themselves;
    and, since errors that neighbouring values share escape the differences, the scatter when every rounding is drawn
    anew (``jitter``).
    """
    start = line.evaluate(line.points)
    aside = ASIDE[line.points[0].dtype]
    rounding = [y.double() * (torch.finfo(y.dtype).eps / 2) for y in start]
    floor = math.sqrt(sum(norm(v.double() * r) ** 2 for v, r in zip(line.upstream, rounding, strict=True)))
    estimates = []
    for exponent in exponents:
        values = []
        for k in range(NOISE_POINTS):
            reached, _ = line.at(aside + (k - NOISE_POINTS // 2) * 2.0**exponent)
            difference = [y.double() - y0.double() for y, y0 in zip(line.evaluate(reached), start, strict=True)]
            values.append(dot(line.upstream, difference))
        for _ in range(NOISE_ORDER):
            values = [b - a for a, b in itertools.pairwise(values)]
        variance = sum(d * d for d in values) / len(values) / math.comb(2 * NOISE_ORDER, NOISE_ORDER)
        if math.isfinite(variance) and variance > 0:
            estimates.append(math.sqrt(variance))
        if len(estimates) == 2 and max(estimates) <= AGREEING * min(estimates):
            break
    between = sorted(estimates)[len(estimates) // 2] if estimates else 0.0
    return max(floor, between, _jitter_of(line, start))


def _jitter_of(line: Line, start: Sequence[Tensor]) -> float:
    generator = torch.Generator().manual_seed(0)
    deviations = []
    try:
        with Jitter(generator):
            again = [line.evaluate(line.points) for _ in range(JITTERS)]
    except (CallFailed, RuntimeError):  # something in it does not run under a dispatch mode
        return 0.0
    for values in again:
        difference = [y.double() - y0.double() for y, y0 in zip(values, start, strict=True)]
        deviations.append(abs(dot(line.upstream, difference)))
    largest = max(deviations)
    return largest if math.isfinite(largest) else 0.0


def extrapolate(rungs: Sequence[Rung]) -> Slope | None:
    """The limit of ``(p + m)/2`` for ``h → 0``, of all entries of Richardson's table the one that is surest of itself.

    An entry's error is how far it is from the entry of a lower order and from that of a larger step, plus the noise.
    Entries that agree because a kink lies inside all of their steps are sure of themselves and wrong; smaller steps
    deny them. So what an entry of the same order at a smaller step differs by, beyond the noise, is its error too.
    ``None`` if there are fewer than two rungs.
    """
    table: list[list[float]] = []
    for rung in rungs:
        row = [rung.centre]
        for order in range(1, len(table) + 1):
            weight = FACTOR ** (2 * order)
            row.append((weight * row[-1] - table[-1][order - 1]) / (weight - 1))
        table.append(row)
    best: Slope | None = None
    for number, row in enumerate(table):
        for order, value in enumerate(row[:number]):
            error = abs(value - table[number - 1][order])
            if order:
                error = max(error, abs(value - row[order - 1]))
            error += NOISE_MARGIN * rungs[number].noise
            for smaller in range(number + 1, len(table)):
                denied = abs(value - table[smaller][order]) - DENIAL_MARGIN * rungs[smaller].noise
                error = max(error, denied)
            if best is None or error < best.error:
                best = Slope(value, error)
    return best


def explained_by_kink(rungs: Sequence[Rung], residual: float | None) -> bool:
    """Whether the slopes on both sides differ enough to explain ``residual``, at the smallest steps that show it.

    Without a ``residual``, whether they explain what the slope on one side alone is off by. A function that jumps at
    the point, so that its difference does not fall with the step at all, is a kink as well.
    """
    last = rungs[-3:]
    if len(last) == 3 and last[-1].remainder > max(0.3 * last[0].remainder, 10 * last[-1].h * last[-1].noise):
        return True
    usable = []
    for larger, rung in itertools.pairwise(rungs):
        size = max(abs(rung.p), abs(rung.m)) if residual is None else abs(residual)
        if 5 * NOISE_MARGIN * rung.noise < size:
            # At tiny steps a smooth function's jump falls with the step, and what stays is a kink; several kinks may
            # cancel in it almost to nothing. At larger ones a jump must be large to count.
            share = 0.0 if rung.h < TINY_STEP else 0.3
            stays = rung.jump > KINK_RATIO * larger.jump and rung.jump > 5 * NOISE_MARGIN * rung.noise
            usable.append(stays and rung.jump >= share * size)
    return any(usable[-3:])


def kinked(rungs: Sequence[Rung], largest: float) -> bool:
    """Whether, at some step up to ``largest``, the slopes on both sides differ by more than a second derivative can."""
    for larger, smaller in itertools.pairwise(rungs):
        seen = smaller.jump > 10 * NOISE_MARGIN * smaller.noise
        if larger.h <= largest and seen and smaller.jump > KINK_RATIO * larger.jump:
            return True
    return False


def taylor_rate(rungs: Sequence[Rung], slack: float) -> tuple[float, float] | None:
    """The rates at which ``|φ(h) − φ(0) − h ⟨u, g⟩|`` falls over the last two steps where it can be told from noise.

    ``slack`` is the rounding of ``⟨u, g⟩``. A rate is the exponent: 2 for a right gradient (more, where the second
    derivative vanishes), 1 for a wrong one. ``None`` if the remainder drowns in noise too soon to tell.
    """
    rates = []
    for larger, smaller in itertools.pairwise(rungs):
        lost = 10 * smaller.h * (NOISE_MARGIN * smaller.noise + slack)
        if larger.remainder > 4 * FACTOR * lost:
            rates.append(math.log(larger.remainder / max(smaller.remainder, lost)) / math.log(FACTOR))
    return (rates[-2], rates[-1]) if len(rates) >= 2 else None
