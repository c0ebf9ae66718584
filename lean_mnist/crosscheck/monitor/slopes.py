"""The gradients of a call against directional differences of it, at the least number of evaluations."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.numerics.differences import SAFETY, Outcome, past_kinks, slope_test
from lean_mnist.crosscheck.numerics.in_float64 import same_in_float64
from lean_mnist.crosscheck.numerics.step_sizes import Line, noise_of
from lean_mnist.crosscheck.report import Finding, Verdict, passed
from lean_mnist.crosscheck.rules.finite_differences import DIFFERENCES
from lean_mnist.crosscheck.subjects.calls import Subject, Upstream, dot

STEPS = (2.0**-10, 2.0**-12)  # of two differences that mostly do, in units of the inputs' size
ENOUGH = 0.05  # the share of what rounding explains to which a slope need be known


def differences(
    ctx: Context, upstream: Upstream, gradients: Sequence[Tensor], forward: Subject | None = None
) -> list[Finding]:
    """Differences along one random line; where they meet a kink (zeros before a ReLU), at a perturbed point too.

    ``gradients`` are those of all checked inputs for ``upstream``. If they are wrong jointly, each is asked alone.
    ``forward`` is what differences are taken of, if not of the function itself.
    """
    own = ctx.dtypes[0]
    precision = torch.float64 if own == torch.float64 or same_in_float64(ctx) else own

    def judge_at(subject: Subject, places: Sequence[int] = range(len(gradients))) -> Outcome:
        claimed = gradients if subject is ctx.subject else subject.vjp(upstream)
        slope = slope_test(
            subject, places, upstream, claimed, ctx.generator, precision=precision, unit=ctx.unit,
            noise=functools.partial(noise_of, quick=True), enough=ENOUGH,
            forward=None if forward is None else forward.at(subject.inputs), at_once=_agrees,
        ).slope  # fmt: skip
        return Outcome.both(slope)

    outcome, at = past_kinks(judge_at, ctx.subject, ctx.generator)
    wrong, findings = outcome.slope.verdict is Verdict.FAILED, list[Finding]()
    if wrong and len(gradients) > 1:
        alone = [replace(judge_at(at, [place]).slope, subject=ctx.name(place)) for place in range(len(gradients))]
        findings = [slope for slope in alone if slope.verdict is Verdict.FAILED]
    findings = findings or [replace(outcome.slope, subject=", ".join(map(ctx.name, range(len(gradients)))))]
    words = ", at a perturbed point" * (at is not ctx.subject and wrong)
    words += f", by differences in {str(precision).removeprefix('torch.')}"
    return [replace(finding, text=finding.text + words, rule=DIFFERENCES, oracle=True) for finding in findings]


def _agrees(line: Line, gradients: Sequence[Tensor], rounding: float) -> Finding | None:
    """Agreement to what rounding explains, from two central differences in float64; ``None`` if there is none.

    What they do not settle (a kink, a function that computes in a lower precision on the way, a wrong gradient) is left
    to all step sizes and an estimate of the noise.
    """
    if line.points[0].dtype != torch.float64:
        return None
    larger, smaller = (
        line.change(line.evaluate(line.at(h)[0]), line.evaluate(line.at(-h)[0])) / (2 * h) for h in STEPS
    )
    slope = smaller + (smaller - larger) / ((STEPS[0] / STEPS[1]) ** 2 - 1)  # Richardson's extrapolation
    claimed, error = dot(line.directions, gradients), SAFETY * abs(slope - smaller) + rounding
    if not (abs(slope - claimed) <= error <= 2 * rounding):
        return None
    return passed(f"slope {slope:.9g}, gradient {claimed:.9g} (error estimate {error:.2e})")
