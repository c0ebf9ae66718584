"""Directional differences of a function as an oracle for its gradient: the slope along a line, and the Taylor test.

They ask whether the backward is the derivative of the function's *own* forward. Differences are taken in float64 where
the function takes it, for the gradient in float64 and for the gradient in the precision under test; else in its own
precision, with the honest (larger) error that this has.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.crosscheck.calls import (
    CallFailed,
    Subject,
    Upstream,
    dot,
    in_dtype,
    norm,
    one_line,
    random_direction,
    root_mean_square,
)
from lean_mnist.crosscheck.context import FLOOR_ULPS, SCATTER_FACTOR, Context
from lean_mnist.crosscheck.numerics import step_sizes
from lean_mnist.crosscheck.numerics.kinks import explained_by_kink
from lean_mnist.crosscheck.numerics.step_sizes import Line, Residual, Slope, extrapolate, residuals_along
from lean_mnist.crosscheck.perturbation import DRAWS, perturbed_inputs, perturbed_vjp
from lean_mnist.crosscheck.report import Verdict

SAFETY = 5.0  # times a difference's own error estimate
# Above this, relative to its outputs, a function given float64 computes in a lower precision on the way.
FLOAT64_NOISE = 1e-13
INCONCLUSIVE = 0.1  # a tolerance above this share of the slope's size tells nothing
MOVES, MOVE = 3, 0.02  # how often a point at a kink is perturbed, and by how much of its size


class Judgement(NamedTuple):
    """The verdict of one test on a gradient, in words. One that is inconclusive does not apply."""

    verdict: Verdict
    text: str


class Outcome(NamedTuple):
    """The judgements of differences along one line: of the slope, and of the rate of the Taylor remainder."""

    slope: Judgement
    taylor: Judgement

    @property
    def verdicts(self) -> tuple[Verdict, Verdict]:
        """Both verdicts."""
        return self.slope.verdict, self.taylor.verdict


def line_through(
    subject: Subject,
    places: Sequence[int],
    precision: torch.dtype,
    generator: torch.Generator,
    upstream: Upstream,
    weights: Sequence[float] | None = None,
    evaluate: Callable[[list[object]], list[Tensor]] | None = None,
) -> Line:
    """A random line along which the checked inputs at ``places`` move, each by its size times its weight.

    Along it ``evaluate`` is evaluated at the inputs (``subject``'s outputs, if not given); the others are held fixed.
    """
    indices = [subject.checked[place] for place in places]
    points = [subject.inputs[i].detach().to(precision) for i in indices]
    directions = [
        weight * random_direction(x, generator)
        for weight, x in zip(weights or [1.0] * len(points), points, strict=True)
    ]
    fixed = in_dtype(subject.inputs, torch.float64 if precision == torch.float64 else None)

    def at(moved: Sequence[Tensor]) -> list[Tensor]:
        inputs = list(fixed)
        for i, x in zip(indices, moved, strict=True):
            inputs[i] = x
        return (evaluate or subject.values)(inputs)

    return Line(at, points, directions, upstream)


def slope_test(
    subject: Subject,
    places: Sequence[int],
    upstream: Upstream,
    gradients: Sequence[Tensor],
    generator: torch.Generator,
    *,
    precision: torch.dtype,
    unit: float,
    noise: Callable[[Line], float],
    dtype: torch.dtype | None = None,
    enough: float = 0.0,
) -> Outcome:
    """Judge the gradients of the checked inputs at ``places`` for ``upstream``, jointly along one random line.

    Args:
        gradients: of all checked inputs, computed in ``dtype`` (their own, if ``None``) with ``unit`` of rounding.
        precision: in which differences are taken.
        noise: of the function, estimated along a line.
        enough: the share of what rounding explains to which the slope need be known.
    """
    claimed = [gradients[place] for place in places]
    # Each tensor has about the same weight, so that an error in the gradient of one is not lost beside another.
    sizes = [
        root_mean_square(subject.inputs[subject.checked[place]]) * norm(g)
        for place, g in zip(places, claimed, strict=True)
    ]
    smallest = min((size for size in sizes if size > 0), default=1.0)
    weights = [min(1.0, max(smallest / size, 1e-3)) if size > 0 else 1.0 for size in sizes]
    line = line_through(subject, places, precision, generator, upstream, weights)
    floor = FLOOR_ULPS * unit * sum(norm(u * g.double()) for u, g in zip(line.directions, claimed, strict=True))

    def scatter() -> float:
        largest = 0.0
        for _ in range(DRAWS):
            inputs = perturbed_inputs(subject, generator, unit)
            drawn = perturbed_vjp(subject, upstream, inputs, generator, dtype)
            shift = [drawn[place].double() - gradients[place].double() for place in places]
            largest = max(largest, abs(dot(line.directions, shift)))
        return largest

    return judge(line, claimed, floor, scatter, noise(line), enough * floor)


def judge(
    line: Line, gradient: Sequence[Tensor], floor: float, scatter: Callable[[], float], noise: float, enough: float = 0
) -> Outcome:
    """Hold ``⟨u, gradient⟩`` against the slope along ``line``.

    ``floor`` is the least that rounding of ``⟨u, gradient⟩`` may be; where that does not explain a difference, how far
    it is seen to ``scatter`` is added. No more steps are taken once the slope is known to ``enough``.
    """
    if not math.isfinite(dot(line.directions, gradient)):
        return _both(Verdict.FAILED, "the gradient is not finite")
    exponents = step_sizes.STEPS[line.points[0].dtype]
    residuals = residuals_along(line, gradient, noise, exponents, enough)
    if extrapolate(residuals) is None:
        return _both(Verdict.NOT_APPLICABLE, "the function is not finite around this point")

    @functools.cache
    def other() -> Slope | None:
        """The slope by other steps: an estimate that was too sure of itself is unlikely to be so twice."""
        again = Line(line.evaluate, line.points, [0.71 * u for u in line.directions], line.upstream)
        return extrapolate(residuals_along(again, gradient, noise, exponents))

    outcome = _outcome(line, gradient, residuals, floor, other)
    if outcome.slope.verdict in (Verdict.PASSED, Verdict.NOT_APPLICABLE) and outcome.taylor.verdict is Verdict.PASSED:
        return outcome
    return _outcome(line, gradient, residuals, floor + SCATTER_FACTOR * scatter(), other)


def _both(verdict: Verdict, text: str) -> Outcome:
    return Outcome(Judgement(verdict, text), Judgement(verdict, text))


def _outcome(
    line: Line,
    gradient: Sequence[Tensor],
    residuals: Sequence[Residual],
    rounding: float,
    other: Callable[[], Slope | None],
) -> Outcome:
    slope = extrapolate(residuals)
    assert slope is not None
    claimed = dot(line.directions, gradient)
    size = sum(norm(u * g.double()) ** 2 for u, g in zip(line.directions, gradient, strict=True)) ** 0.5
    tolerance = SAFETY * slope.error + rounding
    found = claimed + slope.residual
    text = f"slope {found:.9g}, gradient {claimed:.9g} (error estimate {tolerance:.2e})"
    verdict = Verdict.PASSED
    if not abs(slope.residual) <= tolerance:
        second = other()
        if second is None or abs(second.residual) > SAFETY * second.error + rounding:
            verdict = Verdict.FAILED
    elif tolerance > INCONCLUSIVE * max(size, abs(found)) > 0:
        verdict, text = Verdict.NOT_APPLICABLE, f"too noisy to tell: {text}"
    taylor = _taylor(residuals, rounding)
    wrong = verdict is Verdict.FAILED, taylor.verdict is Verdict.FAILED
    if any(wrong) and explained_by_kink(residuals, slope.residual if wrong[0] else None):
        text = f"the slopes on both sides differ: {text}"
        verdicts = (Verdict.KINK if w else v for w, v in zip(wrong, (verdict, taylor.verdict), strict=True))
        return Outcome(*(Judgement(v, text) for v in verdicts))
    return Outcome(Judgement(verdict, text), taylor)


def _taylor(residuals: Sequence[Residual], rounding: float) -> Judgement:
    rates = step_sizes.taylor_rate(residuals, rounding)
    if rates is None:
        return Judgement(Verdict.PASSED, "the remainder is below the noise")
    text = f"the remainder falls with rate {rates[1]:.2f}"
    # A wrong gradient leaves a remainder of rate 1, and goes on doing so.
    if all(0.8 < rate < 1.3 for rate in rates):
        return Judgement(Verdict.FAILED, f"{text}, expected 2")
    return Judgement(Verdict.PASSED, text)


def past_kinks(
    judge_at: Callable[[Subject], Outcome],
    subject: Subject,
    generator: torch.Generator,
    dtype: torch.dtype | None = None,
) -> tuple[Outcome, Subject]:
    """The outcome at the subject's point and, if that is at a kink, at perturbed points, where it excuses nothing.

    A failure there is one, and is returned with the subject at that point; agreement there leaves it at a kink.
    ``dtype`` is that of the perturbed inputs.
    """
    first = _judged(judge_at, subject)
    if Verdict.KINK not in first.verdicts:
        return first, subject
    for _ in range(MOVES):
        there = subject.at(subject.moved(generator, MOVE, dtype))
        outcome = _judged(judge_at, there)
        if Verdict.FAILED in outcome.verdicts:
            return outcome, there
        if outcome.slope.verdict is Verdict.PASSED:
            text = f"{first.slope.text}; at a perturbed point: {outcome.slope.text}"
            return Outcome(Judgement(Verdict.KINK, text), Judgement(first.taylor.verdict, text)), subject
    return first, subject


def _judged(judge_at: Callable[[Subject], Outcome], subject: Subject) -> Outcome:
    try:
        return judge_at(subject)
    except CallFailed as failure:  # it may be out of its domain
        return _both(Verdict.NOT_APPLICABLE, f"around this point its {failure}")


def why_not_float64(ctx: Context) -> str:
    """The reason why the function does not run in float64, or does not compute in it throughout; empty if it does."""
    every = range(len(ctx.checked))
    try:
        outputs = ctx.subject.call(dtype=torch.float64).outputs
        if any(y.dtype != torch.float64 for y in outputs):
            return f"its output is {next(y.dtype for y in outputs if y.dtype != torch.float64)}"
        upstream = [v.double() for v in ctx.gaussian()]
        ctx.subject.vjp(upstream, dtype=torch.float64)
    except CallFailed as failure:  # in its own precision both ran before
        return one_line(failure.error) or type(failure.error).__name__
    total = sum(y.numel() for y in outputs)
    if total == 0:
        return ""
    line = line_through(ctx.subject, every, torch.float64, ctx.generator, upstream)
    largest = max(1.0, *(float(y.detach().abs().max()) if y.numel() else 0.0 for y in outputs))
    noise = step_sizes.noise_of(line, step_sizes.SPACINGS[torch.float64][1:2]) / total**0.5 / largest
    return f"it has noise of {noise:.0e} there: it computes in a lower precision on the way" * (noise > FLOAT64_NOISE)


def same_in_float64(ctx: Context) -> bool:
    """True if the function runs in float64 and gives there what it gives in its own precision.

    A Function may choose another formula by the precision of its input.
    """
    try:
        outputs = ctx.subject.values(in_dtype(ctx.subject.inputs, torch.float64))
    except CallFailed:
        return False
    return len(outputs) == len(ctx.outputs) and all(
        a.dtype == torch.float64 and not norm(a - b.double()) > 1e3 * ctx.unit * (norm(a) + a.numel() ** 0.5)
        for a, b in zip(outputs, ctx.outputs, strict=True)
    )
