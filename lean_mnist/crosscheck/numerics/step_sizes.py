"""Directional differences at a sequence of step sizes; estimates of a function's noise and of its slope.

With ``φ(t) = ⟨v, f(x + t u)⟩`` and ``g``, said to be ``Jᵀ v``, there are two residual slopes at each step ``h``::

    p(h) = (φ(h) − φ(0) − ⟨x₊ − x, g⟩) / h          m(h) = (φ(0) − φ(−h) − ⟨x − x₋, g⟩) / h

where ``x₊`` and ``x₋`` are the points actually reached in the function's precision. For a right ``g`` and smooth ``f``
their mean falls like ``h²`` to round-off, and is extrapolated (Richardson; Ridders, *Advances in Engineering Software*
4, 1982). ``p − m`` is the second difference ``h φ''``: where it does not fall with ``h``, the slopes on the two sides
differ and the point is at a kink (``kinks``). ``h max(|p|, |m|)`` is the remainder of the Taylor test.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lean_mnist.crosscheck.perturbation import DRAWS, Perturbing, under
from lean_mnist.crosscheck.subjects.calls import Upstream
from lean_mnist.crosscheck.subjects.numbers import dot, norm

FACTOR = 4.0  # between step sizes
# Exponents of 2 of the largest and the smallest step, in units of the input's size, by the function's precision.
STEPS = {torch.float64: (-4, -24), torch.float32: (-1, -11), torch.float16: (-1, -7), torch.bfloat16: (0, -6)}
# Exponents of 2 of the spacings at which the noise is estimated. The median of the three estimates counts, or of the
# first two the larger, where they agree.
SPACINGS = {
    torch.float64: (-40, -26, -14),
    torch.float32: (-20, -15, -10),
    torch.float16: (-9, -7, -5),
    torch.bfloat16: (-6, -5, -4),
}
# How far from the point the noise is estimated: a kink at the point itself would look like noise.
OFFSET = {torch.float64: 2.0**-6, torch.float32: 2.0**-5, torch.float16: 2.0**-3, torch.bfloat16: 2.0**-2}
NOISE_POINTS, NOISE_ORDER = 9, 6
AGREEING = 4.0  # at most this factor between two estimates
NOISE_MARGIN = 4.0  # times its standard deviation
DENIAL_MARGIN = 2 * NOISE_MARGIN  # of a smaller step's entry, whose orders add the noise of several steps
FEWEST_STEPS = 3  # below which agreement may be luck
STEPS_INSIDE = 6  # below the first step that stays in the domain, where the larger ones leave it


@dataclass(frozen=True)
class Residual:
    """The residual slopes ``p`` and ``m`` at step size ``h``, and the noise that is left in them."""

    h: float
    p: float
    m: float
    noise: float

    @property
    def centre(self) -> float:
        """The residual of the central difference."""
        return (self.p + self.m) / 2

    @property
    def jump(self) -> float:
        """By how much the slopes on the two sides differ."""
        return abs(self.p - self.m)

    @property
    def remainder(self) -> float:
        """The larger of the two remainders of the Taylor test."""
        return self.h * max(abs(self.p), abs(self.m))


@dataclass(frozen=True)
class Slope:
    """The extrapolated difference between the true slope and ``⟨u, g⟩``, with its own error estimate."""

    residual: float
    error: float


@dataclass(frozen=True)
class Line:
    """The direction ``u`` (one tensor for each point) through the points ``x``, and upstream gradients ``v``."""

    evaluate: Callable[[Sequence[Tensor]], list[Tensor]]
    points: Sequence[Tensor]
    directions: Sequence[Tensor]
    upstream: Upstream

    def at(self, t: float) -> tuple[list[Tensor], list[Tensor]]:
        """The points reached at ``t``, in their own precision, and how far (in float64) each was moved."""
        reached = [(x.double() + t * u).to(x.dtype) for x, u in zip(self.points, self.directions, strict=True)]
        return reached, [y.double() - x.double() for y, x in zip(reached, self.points, strict=True)]

    def change(self, values: Sequence[Tensor], start: Sequence[Tensor]) -> float:
        """``⟨v, values − start⟩``."""
        pairs = zip(self.upstream, values, start, strict=True)
        return sum(dot([v], [y.double() - y0.double()]) for v, y, y0 in pairs if v is not None)


@torch.no_grad()
def residuals_along(
    line: Line,
    gradient: Sequence[Tensor],
    noise: float,
    enough: float | None = None,
    start: Sequence[Tensor] | None = None,
    steps: tuple[int, int] | None = None,
) -> list[Residual]:
    """The residual slopes from the largest step down; steps at which the function leaves its domain are left out.

    Where all of them do, near its edge, smaller ones are taken.

    Given ``enough``, no more steps are taken once the slope is known to it, or as well as the noise lets smaller steps
    tell, and is that of ``gradient``. (A slope that is not is looked into with all of them: it may be that of a kink.)
    ``start`` is the value at the point, where that is known; ``steps`` as in ``STEPS``.
    """
    start = start or line.evaluate(line.points)
    residuals = []
    dtype = line.points[0].dtype
    h, smallest = (2.0**exponent for exponent in steps or STEPS[dtype])
    while h >= smallest:
        slopes = []
        for sign in (1, -1):
            reached, moved = line.at(sign * h)
            slopes.append((line.change(line.evaluate(reached), start) - dot(moved, gradient)) / (sign * h))
        if all(map(math.isfinite, slopes)):
            residuals.append(Residual(h, slopes[0], slopes[1], noise / h))
        elif not residuals:
            smallest = min(smallest, max(h / FACTOR**STEPS_INSIDE, 4 * torch.finfo(dtype).eps))
        h /= FACTOR
        if enough is not None and len(residuals) > FEWEST_STEPS and (slope := extrapolate(residuals)) is not None:
            known = slope.error <= max(enough, NOISE_MARGIN * noise / h)  # as well as a smaller step could tell
            if known and abs(slope.residual) <= slope.error + enough:
                break
    return residuals


@torch.no_grad()
def noise_of(line: Line, quick: bool = False) -> float:
    """The standard deviation of the rounding errors in ``φ`` (Moré and Wild, *Estimating computational noise*, 2011).

    Sixth differences of equally spaced values annihilate what is smooth, and multiply independent errors of standard
    deviation σ to ``√(12!/6!²) σ``. At least the rounding of the outputs themselves; and, since errors that
    neighbouring values share escape the differences, the scatter under ulp perturbations. ``quick``: at one spacing.
    """
    start = line.evaluate(line.points)
    offset = OFFSET[line.points[0].dtype]
    rounding = [y.double() * (torch.finfo(y.dtype).eps / 2) for y in start]
    pairs = zip(line.upstream, rounding, strict=True)
    floor = math.sqrt(sum(norm(v.double() * r) ** 2 for v, r in pairs if v is not None))
    estimates = []
    spacings = SPACINGS[line.points[0].dtype]
    for exponent in spacings[1:2] if quick else spacings:
        spaced = [offset + (k - NOISE_POINTS // 2) * 2.0**exponent for k in range(NOISE_POINTS)]
        values = [line.change(line.evaluate(line.at(t)[0]), start) for t in spaced]
        for _ in range(NOISE_ORDER):
            values = [b - a for a, b in itertools.pairwise(values)]
        variance = sum(d * d for d in values) / len(values) / math.comb(2 * NOISE_ORDER, NOISE_ORDER)
        if math.isfinite(variance) and variance > 0:
            estimates.append(math.sqrt(variance))
        if len(estimates) == 2 and max(estimates) <= AGREEING * min(estimates):
            break
    between = sorted(estimates)[len(estimates) // 2] if estimates else 0.0
    mode = Perturbing(torch.Generator().manual_seed(0))
    again: list[list[Tensor]] = under(mode, lambda: [line.evaluate(line.points) for _ in range(DRAWS)], otherwise=list)
    shapes = [y.shape for y in start]  # which may be computed by operations that round
    same = [values for values in again if [y.shape for y in values] == shapes]
    scattered = max((abs(line.change(values, start)) for values in same), default=0.0)
    return max(floor, between, scattered if math.isfinite(scattered) else 0.0)


@torch.no_grad()
def noise_of_many(line: Line, start: Sequence[Tensor]) -> float:
    """The same of a function of many outputs, in float64, by two evaluations: from a second difference of each output.

    At a spacing at which an output that is computed in float32 moves by some units of its rounding, and what is smooth
    in float64 by less than one.
    """
    values = [line.evaluate(line.at(sign * 2.0**-26)[0]) for sign in (1, -1)]
    pairs = zip(line.upstream, *values, start, strict=True)
    errors, rounding = list[Tensor](), list[Tensor]()
    for v, above, below, y in pairs:
        if v is not None:
            errors.append(v.double() * (above + below - 2 * y) / math.sqrt(6))
            rounding.append(v.double() * y * torch.finfo(torch.float64).eps / 2)
    norms = [math.hypot(*map(norm, both)) for both in (errors, rounding)]
    return max(*norms, abs(sum(float(e.sum()) for e in errors)))


def extrapolate(residuals: Sequence[Residual]) -> Slope | None:
    """The limit of ``(p + m)/2`` for ``h → 0``, of all entries of Richardson's table the one with the smallest error.

    An entry's error is how far it is from the entry of a lower order and from that of a larger step, plus the noise.
    Entries that agree because a kink lies inside all of their steps have small errors and are wrong; smaller steps
    deny them. So what an entry of the same order at a smaller step differs by, beyond the noise, is its error too.
    ``None`` if there are fewer than two steps.
    """
    table: list[list[float]] = []
    for residual in residuals:
        row = [residual.centre]
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
            error += NOISE_MARGIN * residuals[number].noise
            for smaller in range(number + 1, len(table)):
                denied = abs(value - table[smaller][order]) - DENIAL_MARGIN * residuals[smaller].noise
                error = max(error, denied)
            if best is None or error < best.error:
                best = Slope(value, error)
    return best


def taylor_rate(residuals: Sequence[Residual], slack: float) -> tuple[float, float] | None:
    """The rates at which ``|φ(h) − φ(0) − h ⟨u, g⟩|`` falls over the last two steps where it can be told from noise.

    ``slack`` is the rounding of ``⟨u, g⟩``. A rate is the exponent: 2 for a right gradient (more, where the second
    derivative vanishes), 1 for a wrong one. ``None`` if the remainder drowns in noise too soon to tell.
    """
    rates = []
    for larger, smaller in itertools.pairwise(residuals):
        lost = 10 * smaller.h * (NOISE_MARGIN * smaller.noise + slack)
        if larger.remainder > 4 * FACTOR * lost:
            rates.append(math.log(larger.remainder / max(smaller.remainder, lost)) / math.log(FACTOR))
    return (rates[-2], rates[-1]) if len(rates) >= 2 else None
