"""Directional differences of a function as an oracle for its gradient: the slope along a line, and the Taylor test.

They ask whether the backward is the derivative of the function's *own* forward, in float64 where the function takes it,
else in its own precision, with the honest (larger) error that this has.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.crosscheck.comparison import FLOOR_ULPS
from lean_mnist.crosscheck.context import SCATTER_FACTOR
from lean_mnist.crosscheck.numerics import step_sizes
from lean_mnist.crosscheck.numerics.kinks import explained_by_kink
from lean_mnist.crosscheck.numerics.step_sizes import Line, Residual, Slope, extrapolate, residuals_along
from lean_mnist.crosscheck.perturbation import perturbed_inputs, perturbed_vjp, scatter
from lean_mnist.crosscheck.report import Finding, Verdict, failed, kink, not_applicable, passed
from lean_mnist.crosscheck.subjects.calls import CallFailed, Subject, Upstream
from lean_mnist.crosscheck.subjects.numbers import dot, in_dtype, norm, normal, random_direction, root_mean_square

STANDARD_DEVIATIONS = 6.0
SAFETY = 5.0  # times a difference's own error estimate
SHORTER = 0.71  # the direction of a second estimate, as a share of the first
INCONCLUSIVE = 0.1  # a tolerance above this share of the slope's size tells nothing
MOVES, MOVE = 3, 0.02  # how often a point at a kink is perturbed, and by how much of its size


class Outcome(NamedTuple):
    """The findings of differences along one line: of the slope, and of the rate of the Taylor remainder."""

    slope: Finding
    taylor: Finding
    left_domain: bool = False  # by the largest step
    slopes: tuple[float, float] = (0.0, 0.0)  # found by differences, and claimed by the gradient

    @classmethod
    def both(cls, finding: Finding, left_domain: bool = False) -> "Outcome":
        """The same finding of the slope and of the rate."""
        return cls(finding, finding, left_domain)

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
    elementwise: bool = False,
) -> Line:
    """A random line along which the checked inputs at ``places`` move, each by its size times its weight.

    ``elementwise``: each number by its own size, so that a small one does not leave the function's domain first.
    Along it ``evaluate`` is evaluated at the inputs (``subject``'s outputs, if not given); the others are held fixed.
    """
    indices = [subject.checked[place] for place in places]
    points = [subject.inputs[i].detach().to(precision) for i in indices]
    weights = weights or [1.0] * len(points)
    directions = [
        w * (x.double().abs() * normal(x.shape, generator, x.device) if elementwise else random_direction(x, generator))
        for w, x in zip(weights, points, strict=True)
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
    forward: Subject | None = None,
    tolerance: float = 0.0,
    at_once: Callable[[Line, Sequence[Tensor], float], Finding | None] = lambda *_: None,
) -> Outcome:
    """Judge the gradients of the checked inputs at ``places`` for ``upstream``, jointly along one random line.

    Args:
        gradients: of all checked inputs, computed in ``dtype`` (their own, if ``None``) with ``unit`` of rounding.
        precision: in which differences are taken.
        noise: of the function, estimated along a line.
        enough: the share of what rounding explains to which the slope need be known.
        forward: of which differences are taken, if not of ``subject``.
        tolerance: the relative error (in 2-norm) that each gradient may have beside rounding.
        at_once: given the line, the gradients and what rounding explains, a finding where fewer evaluations do.
    """
    claimed = [gradients[place] for place in places]
    weights = balanced(subject, places, gradients)

    def along(elementwise: bool) -> Outcome:
        evaluate = None if forward is None else forward.values
        line = line_through(subject, places, precision, generator, upstream, weights, evaluate, elementwise)
        pairs = list(zip(line.directions, claimed, strict=True))
        floor = FLOOR_ULPS * unit * sum(norm(u * g.double()) for u, g in pairs)
        # Of an error e, the standard deviation of ⟨u, e⟩ is its size times that of a number in u.
        floor += STANDARD_DEVIATIONS * tolerance * sum(norm(u) / max(u.numel(), 1) ** 0.5 * norm(g) for u, g in pairs)

        found = at_once(line, claimed, floor)
        if found is not None:
            return Outcome.both(found)

        def change() -> float:
            drawn = perturbed_vjp(subject, upstream, perturbed_inputs(subject, generator, unit), generator, dtype)
            return abs(dot(line.directions, [drawn[place].double() - gradients[place].double() for place in places]))

        return judge(line, claimed, floor, change, noise(line), enough * floor)

    outcome = along(elementwise=False)
    return min(outcome, along(elementwise=True), key=lambda o: o.slope.verdict.rank) if outcome.left_domain else outcome


def balanced(subject: Subject, places: Sequence[int], gradients: Sequence[Tensor]) -> list[float]:
    """Weights by which an error in the gradient of one tensor is not lost beside another, as each counts the same."""
    sizes = [root_mean_square(subject.inputs[subject.checked[place]]) * norm(gradients[place]) for place in places]
    smallest = min((size for size in sizes if size > 0), default=1.0)
    return [min(1.0, max(smallest / size, 1e-3)) if size > 0 else 1.0 for size in sizes]


def judge(
    line: Line, gradient: Sequence[Tensor], floor: float, change: Callable[[], float], noise: float, enough: float = 0
) -> Outcome:
    """Hold ``⟨u, gradient⟩`` against the slope along ``line``.

    ``floor`` is the least that rounding of ``⟨u, gradient⟩`` may be; where that does not explain a difference, the
    scatter of its ``change`` is added. No more steps are taken once the slope is known to ``enough``.
    """
    if not math.isfinite(dot(line.directions, gradient)):
        return Outcome.both(failed("the gradient is not finite"))
    residuals = residuals_along(line, gradient, noise, enough)
    left = not residuals or residuals[0].h < 2.0 ** step_sizes.STEPS[line.points[0].dtype][0]
    if extrapolate(residuals) is None:
        return Outcome.both(not_applicable("the function is not finite around this point"), left)

    @functools.cache
    def other() -> Slope | None:
        """The slope by other steps: an estimate that was too sure of itself is unlikely to be so twice."""
        again = Line(line.evaluate, line.points, [SHORTER * u for u in line.directions], line.upstream)
        return extrapolate(residuals_along(again, gradient, noise))

    outcome = _outcome(line, gradient, residuals, floor, other)._replace(left_domain=left)
    if outcome.slope.verdict in (Verdict.PASSED, Verdict.NOT_APPLICABLE) and outcome.taylor.verdict is Verdict.PASSED:
        return outcome
    return _outcome(line, gradient, residuals, floor + SCATTER_FACTOR * scatter(change), other)._replace(
        left_domain=left
    )


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
        if second is None or abs(second.residual) > SAFETY * second.error + SHORTER * rounding:
            verdict = Verdict.FAILED
        else:  # it is the one that is believed, if it tells anything
            tolerance, found = SAFETY * second.error / SHORTER + rounding, claimed + second.residual / SHORTER
            text = f"slope {found:.9g}, gradient {claimed:.9g} (error estimate {tolerance:.2e})"
    if verdict is Verdict.PASSED and tolerance > INCONCLUSIVE * max(size, abs(found)) > 0:
        verdict, text = Verdict.NOT_APPLICABLE, f"too noisy to tell: {text}"
    taylor = _taylor(residuals, rounding)
    wrong = verdict is Verdict.FAILED, taylor.verdict is Verdict.FAILED
    if any(wrong) and explained_by_kink(residuals, slope.residual if wrong[0] else None):
        text = f"the slopes on both sides differ: {text}"
        verdicts = (Verdict.KINK if w else v for w, v in zip(wrong, (verdict, taylor.verdict), strict=True))
        slope_at_kink, taylor_at_kink = (Finding(v, text) for v in verdicts)
        return Outcome(slope_at_kink, taylor_at_kink)
    return Outcome(Finding(verdict, text), taylor, slopes=(found, claimed))


def _taylor(residuals: Sequence[Residual], rounding: float) -> Finding:
    rates = step_sizes.taylor_rate(residuals, rounding)
    if rates is None:
        return passed("the remainder is below the noise")
    text = f"the remainder falls with rate {rates[1]:.2f}"
    # A wrong gradient leaves a remainder of rate 1, and goes on doing so.
    return failed(f"{text}, expected 2") if all(0.8 < rate < 1.3 for rate in rates) else passed(text)


def past_kinks(
    judge_at: Callable[[Subject], Outcome],
    subject: Subject,
    generator: torch.Generator,
    dtype: torch.dtype | None = None,
) -> tuple[Outcome, Subject]:
    """The outcome at the subject's point and, if that is at a kink, at perturbed points, where it excuses nothing.

    A failure there is one, and is returned with the subject at that point; agreement there leaves it at a kink. Where
    there is a kink at every point, as of a function in steps, nothing is told.
    ``dtype`` is that of the perturbed inputs.
    """

    def judged(there: Subject) -> Outcome:
        try:
            return judge_at(there)
        except CallFailed as failure:  # it may be out of its domain
            return Outcome.both(not_applicable(f"around this point its {failure}"))

    first = judged(subject)
    if Verdict.KINK not in first.verdicts:
        return first, subject
    for _ in range(MOVES):
        there = subject.at(subject.moved(generator, MOVE, dtype))
        outcome = judged(there)
        if Verdict.FAILED in outcome.verdicts:
            return outcome, there
        if outcome.slope.verdict is Verdict.PASSED:
            text = f"{first.slope.text}; at a perturbed point: {outcome.slope.text}"
            return Outcome(kink(text), Finding(first.taylor.verdict, text)), subject
    return Outcome.both(not_applicable(f"at a kink wherever it was tried: {first.slope.text}")), subject
