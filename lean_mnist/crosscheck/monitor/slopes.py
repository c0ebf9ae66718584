"""The gradients of a call against directional differences of it, at the least number of evaluations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.numerics.differences import Outcome, past_kinks, same_in_float64, slope_test
from lean_mnist.crosscheck.numerics.step_sizes import Line, noise_of
from lean_mnist.crosscheck.report import Finding, Verdict
from lean_mnist.crosscheck.rules.finite_differences import DIFFERENCES
from lean_mnist.crosscheck.subjects.calls import Subject, Upstream, norm

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
        outcome, state = None, ctx.generator.get_state()
        for noise in _noises(ctx, upstream, precision):
            ctx.generator.set_state(state)  # along the same line
            outcome = slope_test(
                subject, places, upstream, claimed, ctx.generator, precision=precision, unit=ctx.unit,
                noise=noise, enough=ENOUGH, forward=None if forward is None else forward.at(subject.inputs),
            )  # fmt: skip
            if outcome.slope.verdict is Verdict.PASSED:
                break
        assert outcome is not None
        return Outcome(outcome.slope, outcome.slope)

    outcome, at = past_kinks(judge_at, ctx.subject, ctx.generator)
    wrong, findings = outcome.slope.verdict is Verdict.FAILED, list[Finding]()
    if wrong and len(gradients) > 1:
        alone = [replace(judge_at(at, [place]).slope, subject=ctx.name(place)) for place in range(len(gradients))]
        findings = [slope for slope in alone if slope.verdict is Verdict.FAILED]
    findings = findings or [replace(outcome.slope, subject=", ".join(map(ctx.name, range(len(gradients)))))]
    words = ", at a perturbed point" * (at is not ctx.subject and wrong)
    words += f", by differences in {str(precision).removeprefix('torch.')}"
    return [replace(finding, text=finding.text + words, rule=DIFFERENCES, oracle=True) for finding in findings]


def _noises(ctx: Context, upstream: Upstream, precision: torch.dtype) -> list[Callable[[Line], float]]:
    """Estimates of the noise, in the order of cost: what agrees beyond rounding need not be measured closer."""
    measured = functools.partial(noise_of, quick=True)
    if precision != torch.float64:
        return [measured]
    terms = [norm(v.double() * y) for v, y in zip(upstream, ctx.outputs, strict=True) if v is not None]
    rounding = sum(terms) * torch.finfo(torch.float64).eps
    return [lambda _: rounding, measured]
