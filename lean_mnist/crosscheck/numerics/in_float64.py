"""Functions given float64: whether they compute in it throughout, and whether a reference is wrong there."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lean_mnist.crosscheck.context import LARGE, Context
from lean_mnist.crosscheck.numerics import step_sizes
from lean_mnist.crosscheck.numerics.differences import line_through, slope_test
from lean_mnist.crosscheck.report import Finding, Verdict
from lean_mnist.crosscheck.subjects.calls import CallFailed, Subject, Upstream, one_line
from lean_mnist.crosscheck.subjects.numbers import in_dtype, nearly_same, norm, normal

# Above this, relative to its outputs, a function given float64 computes in a lower precision on the way.
FLOAT64_NOISE, LOWERED_NOISE = 1e-13, 1e-10


def why_not_float64(ctx: Context) -> str:
    """The reason why the function does not run in float64, or does not compute in it throughout; empty if it does.

    Where it computes in about float32, ``ctx.lowered`` says so.
    """
    try:
        outputs = ctx.in_float64[0] if ctx.large else ctx.subject.call(dtype=torch.float64).outputs
        if any(y.dtype != torch.float64 for y in outputs):
            return f"its output is {next(y.dtype for y in outputs if y.dtype != torch.float64)}"
        if ctx.large:
            upstream, gradients = [v.double() for v in ctx.base[0]], ctx.in_float64[1]
        if not ctx.large or _fit_into_float32(gradients):
            upstream = [normal(y.shape, ctx.generator, y.device) for y in outputs]
            gradients = ctx.subject.vjp(upstream, dtype=torch.float64)
    except CallFailed as failure:  # in its own precision both ran before
        return one_line(failure.error) or type(failure.error).__name__
    # Of numbers with all 53 digits, as those of ``upstream``, float64 makes none that fit into float32.
    if _fit_into_float32(gradients):
        ctx.lowered = True
        return "its gradient has the precision of float32 there"
    total = sum(y.numel() for y in outputs)
    if total == 0:
        return ""
    line = line_through(ctx.subject, range(len(ctx.checked)), torch.float64, ctx.generator, upstream)
    largest = max(1.0, *(float(y.detach().abs().max()) if y.numel() else 0.0 for y in outputs))
    try:
        noise = step_sizes.noise_of_many(line, outputs) if ctx.large else math.inf
        if noise > FLOAT64_NOISE * total**0.5 * largest:
            noise = step_sizes.noise_of(line, quick=True)
    except CallFailed:  # the point is at the edge of its domain, of which differences will say more
        return ""
    if ctx.large:
        ctx.noise[LARGE] = noise / sum(norm(v) ** 2 for v in upstream) ** 0.5
    noise = noise / total**0.5 / largest
    ctx.lowered = noise > LOWERED_NOISE
    return f"it has noise of {noise:.0e} there: it computes in a lower precision on the way" * (noise > FLOAT64_NOISE)


def reference_is_off(ctx: Context, reference: Subject, place: int, upstream: Upstream) -> str:
    """Words for differences that confirm the function's gradient and deny the reference's; empty if they do not.

    Both gradients are in float64, and the differences those of the reference's own outputs.
    """
    if ctx.why_not_float64:
        return ""
    given = [None if v is None else v.double() for v in upstream]

    def judged(subject: Subject) -> Finding:
        gradients = subject.vjp(given, dtype=torch.float64)
        return slope_test(
            subject, [place], given, gradients, ctx.generator, precision=torch.float64, dtype=torch.float64,
            unit=torch.finfo(torch.float64).eps / 2, noise=step_sizes.noise_of, forward=reference,
            tolerance=ctx.options.tolerance,
        ).slope  # fmt: skip

    ours, theirs = judged(ctx.subject), judged(reference)
    if (ours.verdict, theirs.verdict) != (Verdict.PASSED, Verdict.FAILED):
        return ""
    return f"the reference is off, not the function: of the reference's own outputs {theirs.text}; here {ours.text}"


def _fit_into_float32(gradients: Sequence[Tensor]) -> bool:
    return any(bool(g.any()) for g in gradients) and all(bool((g.float() == g).all()) for g in gradients)


def same_in_float64(ctx: Context) -> bool:
    """True if the function runs in float64 and gives there what it gives in its own precision.

    A Function may choose another formula by the precision of its input.
    """
    try:
        outputs = ctx.in_float64[0] if ctx.large else ctx.subject.values(in_dtype(ctx.subject.inputs, torch.float64))
    except CallFailed:
        return False
    return len(outputs) == len(ctx.outputs) and all(
        a.dtype == torch.float64 and nearly_same(b, a, ctx.unit, a.numel() ** 0.5)
        for a, b in zip(outputs, ctx.outputs, strict=True)
    )
