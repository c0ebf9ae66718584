"""Adaptive finite differences of the function along random directions, one input at a time, and the Taylor test.

In a large call all inputs first move at once: two steps a line are enough where they agree, and the gradient with them,
to ``ENOUGH`` of the size of one number. Else each input is looked at by itself.
"""

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from lean_mnist.crosscheck.comparison import FLOOR_ULPS
from lean_mnist.crosscheck.context import LARGE, Context
from lean_mnist.crosscheck.diagnosis import Diagnosis, Kind, factor_in_words
from lean_mnist.crosscheck.numerics.differences import SAFETY, Outcome, balanced, line_through, past_kinks, slope_test
from lean_mnist.crosscheck.numerics.in_float64 import same_in_float64, why_not_float64
from lean_mnist.crosscheck.numerics.step_sizes import Line, extrapolate, noise_of, residuals_along
from lean_mnist.crosscheck.report import Finding, Verdict, failed, not_applicable, passed
from lean_mnist.crosscheck.rules import rule
from lean_mnist.crosscheck.subjects.calls import CallFailed, Subject
from lean_mnist.crosscheck.subjects.numbers import norm

DIFFERENCES, TAYLOR = "finite differences", "Taylor test"
COPIES = 16  # so many times the bytes of inputs and outputs, differences take in memory
STEPS = (-14, -16)
# So that an error of 1e-3 in one number, along a direction in which all have some size, is fifty times as large.
ENOUGH = 2e-5


@rule(DIFFERENCES, order=30, also=(TAYLOR,), oracle=True, fast=True, copies=8)
def finite_differences(ctx: Context) -> list[Finding]:
    """The gradient in float64, and in the precision under test where the comparison does not say more of it."""
    in64, own = not ctx.why_not_float64, ctx.dtypes[0]
    if COPIES * ctx.size > ctx.options.max_memory:
        return _in_chunks(ctx) if in64 else [not_applicable("not checked: more than max_memory")]
    runs = [(torch.float64, torch.float64)] if in64 or own == torch.float64 else []
    if own != torch.float64 and (ctx.gradient_reference is None or not in64):
        runs.append((own, torch.float64 if in64 and same_in_float64(ctx) else own))
    if ctx.large and in64 and not ctx.options.tolerance:
        with_reference = ctx.gradient_reference is not None  # which looks at the precision under test
        try:
            agree = _agrees_along_lines(ctx, ctx.options.probes)
        except CallFailed:  # it leaves its domain; each input by itself may not
            agree = ""
        if agree and (with_reference or _same_gradients(ctx)):
            return [passed(agree)]
    findings: list[Finding] = []
    for precision, differences_in in runs:
        probes = ctx.options.probes if precision == torch.float64 or not in64 else 1
        for place, i in enumerate(ctx.checked):
            if ctx.subject.inputs[i].numel():
                findings += _one_input(ctx, place, precision, differences_in, probes)
    return findings


def _in_chunks(ctx: Context) -> list[Finding]:
    """The gradient in the whole call, some rows at a time."""
    number = 0
    for there in _chunks(ctx):
        number += 1
        findings = finite_differences(replace(there, options=replace(there.options, max_memory=math.inf)))
        failures = [finding for finding in findings if finding.verdict is not Verdict.PASSED]
        if failures:
            return failures
        if same_in_float64(there) and (wrong := there.differing(there.base[1], there.in_float64[1], there.base[0])):
            text = "in the whole call, rows have another gradient than alone in float64, where differences agree"
            return [failed(text, ctx.name(place)) for place in wrong]
    if not number:
        return [not_applicable("not checked: more than max_memory")]
    return [passed(f"in {number} chunks of its rows, all agree with differences along {ctx.options.probes} lines each")]


def _one_input(
    ctx: Context, place: int, precision: torch.dtype, differences_in: torch.dtype, probes: int
) -> list[Finding]:
    outcomes = []
    for given in (*[None] * probes, *ctx.given_upstream):

        def judge_at(subject: Subject, given: list[Tensor] | None = given) -> Outcome:
            return _along_one_input(ctx, subject, place, precision, differences_in, given=given)

        outcome, at = past_kinks(judge_at, ctx.subject, ctx.generator, differences_in)
        if Verdict.KINK in outcome.verdicts or at is not ctx.subject:
            ctx.kinks.add(place)
        outcomes.append(outcome)
        if outcome.verdicts == (Verdict.FAILED, Verdict.FAILED):
            break
    findings = []
    for rule_name, tests in ((DIFFERENCES, [o.slope for o in outcomes]), (TAYLOR, [o.taylor for o in outcomes])):
        gravest = min(tests, key=lambda finding: finding.verdict.rank)
        if gravest.verdict is Verdict.FAILED and rule_name == DIFFERENCES:
            failed = next(outcome for outcome in outcomes if outcome.slope is gravest)
            gravest = replace(gravest, diagnosis=_diagnosed(ctx, place, precision, differences_in, failed))
        text = f"{gravest.text}, in {str(precision).removeprefix('torch.')}"
        findings.append(replace(gravest, text=text, subject=ctx.name(place), rule=rule_name))
    return findings if differences_in == precision else findings[:1]


def _diagnosed(
    ctx: Context, place: int, precision: torch.dtype, differences_in: torch.dtype, outcome: Outcome
) -> Diagnosis | None:
    """The likely fault, without a reference: the first simple thing that the slope of a new line confirms.

    The opposite sign, another input's gradient, or a multiple.
    """
    found, claimed = outcome.slopes
    shapes = [ctx.subject.inputs[i].shape for i in ctx.checked]
    hypotheses: list[tuple[Kind, str, Callable[[list[Tensor]], Tensor]]]
    hypotheses = [(Kind.SIGN, "the opposite sign", lambda gradients: -gradients[place])]
    for other, shape in enumerate(shapes):
        if other != place and shape == shapes[place]:
            words = f"its gradient is returned as that of {ctx.name(other)}"
            hypotheses.append((Kind.SWAPPED_TENSORS, words, operator.itemgetter(other)))
    if found and claimed and differences_in == torch.float64:  # else any factor near 1 would do
        factor = claimed / found
        sizes = [n for shape in shapes for n in shape]
        words = factor_in_words(factor, sizes, "the slope")
        hypotheses.append((Kind.CONSTANT_FACTOR, words, lambda gradients: gradients[place] / factor))
    for kind, words, instead in hypotheses:
        try:
            again = _along_one_input(ctx, ctx.subject, place, precision, differences_in, instead)
        except CallFailed:
            continue
        slope, supposed = again.slopes
        if abs(slope - supposed) <= (1e-5 if differences_in == torch.float64 else 1e-2) * abs(slope):
            return Diagnosis(kind, words, "along a random direction", (), claimed, found)
    return None


def _along_one_input(
    ctx: Context,
    subject: Subject,
    place: int,
    precision: torch.dtype,
    differences_in: torch.dtype,
    instead: Callable[[list[Tensor]], Tensor] | None = None,
    given: list[Tensor] | None = None,
) -> Outcome:
    """Judge the gradient of one input, computed in ``precision``, by differences taken in ``differences_in``.

    ``instead`` makes of the gradients of all inputs another one to be judged; ``given`` is the upstream gradient.
    """
    dtype = torch.float64 if precision == torch.float64 else None
    if dtype is None:  # a point perturbed in another precision
        pairs = zip(subject.inputs, ctx.subject.inputs, strict=True)
        subject = subject.at([x.to(y.dtype) if isinstance(x, Tensor) else x for x, y in pairs])
    # What an output that is not differentiable does is not the backward's affair.
    pairs = zip(given or ctx.gaussian(), ctx.differentiable, strict=True)
    upstream = [v.to(dtype or v.dtype) * differentiable for v, differentiable in pairs]
    gradients = subject.vjp(upstream, dtype=dtype)
    if instead is not None:
        gradients[place] = instead(gradients)
    weight = max(sum(norm(v) ** 2 for v in upstream) ** 0.5, 1e-300)

    def noise(line: Line) -> float:
        key = (place, differences_in)
        if key not in ctx.noise:
            ctx.noise[key] = noise_of(line) / weight
        return ctx.noise[key] * weight

    unit = torch.finfo(gradients[place].dtype).eps / 2 if dtype is not None else ctx.unit
    return slope_test(
        subject, [place], upstream, gradients, ctx.generator,
        precision=differences_in, unit=unit, noise=noise, dtype=dtype, forward=ctx.smooth,
        tolerance=ctx.options.tolerance,
    )  # fmt: skip


def _agrees_along_lines(ctx: Context, lines: int) -> str:
    """Words for agreement of the gradients in float64 with differences along so many lines; empty if there is none."""
    if LARGE not in ctx.noise:  # the function raises around this point
        return ""
    places = [place for place, i in enumerate(ctx.checked) if ctx.subject.inputs[i].numel()]
    largest, enough = 0.0, ENOUGH / ctx.numbers**0.5
    for number in range(lines):
        own = ctx.gaussian() if number else ctx.base[0]
        # What an output that is not differentiable does is not the backward's affair.
        upstream = [v.double() * moves for v, moves in zip(own, ctx.differentiable, strict=True)]
        gradients = ctx.subject.vjp(upstream, dtype=torch.float64) if number else ctx.in_float64[1]
        weights = balanced(ctx.subject, places, gradients)
        evaluate = None if ctx.smooth is None else ctx.smooth.values
        line = line_through(ctx.subject, places, torch.float64, ctx.generator, upstream, weights, evaluate)
        claimed = [gradients[place] for place in places]
        noise = ctx.noise[LARGE] * math.hypot(*map(norm, upstream))
        start = ctx.in_float64[0] if ctx.smooth is None else None
        slope = extrapolate(residuals_along(line, claimed, noise, start=start, steps=STEPS))
        size = math.hypot(*(norm(u * g) for u, g in zip(line.directions, claimed, strict=True)))
        rounding = FLOOR_ULPS * torch.finfo(torch.float64).eps / 2 * size
        if slope is None or not abs(slope.residual) <= SAFETY * slope.error + rounding <= enough * size:
            return ""
        largest = max(largest, abs(slope.residual) / size if size else 0.0)
    return f"along {lines} lines on which all inputs move, the slope is ⟨u, gradient⟩ to {largest:.0e} of its size"


def _same_gradients(ctx: Context) -> bool:
    """True if the gradients in the precision under test are those in float64, up to rounding."""
    if all(dtype == torch.float64 for dtype in ctx.dtypes):
        return True
    return same_in_float64(ctx) and not ctx.differing(ctx.base[1], ctx.in_float64[1], ctx.base[0])


def _chunks(ctx: Context) -> Iterator[Context]:
    """So many rows at a time as ``max_memory`` allows, with the gradients in the whole call as the shared ones.

    None where the function is not seen to treat each row by itself, or memory is too small.
    """
    rows = int(ctx.options.max_memory / 5 / (COPIES * ctx.size) * ctx.length)
    if ctx.part is None or any(ctx.subject.inputs[i].shape[:1] != (ctx.length,) for i in ctx.checked):
        return
    for start in range(0, ctx.length, max(rows, 2)):
        chunk = slice(start, start + max(rows, 2))
        there = ctx.rows(torch.arange(ctx.length)[chunk])
        there.base = [v[chunk] for v in ctx.base[0]], [g[chunk] for g in ctx.base[1]]
        there.why_not_float64 = why_not_float64(there)
        yield there
