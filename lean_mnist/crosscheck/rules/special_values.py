"""Exact zeros, ties and large numbers among the inputs, where branches are forgotten and 0/0 and ∞/∞ become NaN."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.numerics.differences import STANDARD_DEVIATIONS
from lean_mnist.crosscheck.numerics.reference_outputs import reference_gradients
from lean_mnist.crosscheck.report import Finding, Severity, failed, not_applicable, passed
from lean_mnist.crosscheck.rules import rule
from lean_mnist.crosscheck.rules.sizes import failures_at
from lean_mnist.crosscheck.subjects.calls import CallFailed, dot, norm, normal

LARGE = "large numbers"
# Beyond these an exponential overflows, in half precision above 11, in float32 above 88.
SIZES = {torch.float16: 20.0, torch.float64: 1000.0}
SIZE_IN_FLOAT32 = 100.0
LARGE_TOLERANCE = 1e-2  # where larger numbers cancel, most digits are lost
DIFFERENCES_SUIT = 2000  # numbers, where there is no reference


@rule("special values", order=135, part=True, if_right=True)
def special_values(ctx: Context) -> list[Finding]:
    """Right where some inputs are zero or equal to others, or large: like the reference, or else differences."""
    if all(ctx.subject.inputs[i].numel() < 2 for i in ctx.checked):
        return [not_applicable("no input of more than one number")]
    looked = []
    for words, kind, tolerance in (
        ("zeros and ties", _zeros_and_ties, 0.0),
        (LARGE, _large, LARGE_TOLERANCE),
    ):
        if tolerance and ctx.options.tolerance:
            continue  # an iteration may not end there
        inputs = _with(ctx, kind)
        if _finite_there(ctx, inputs):
            looked.append(words)
            findings = _judged(ctx, inputs, words, max(tolerance, ctx.options.tolerance))
            if findings:
                return findings
    return [passed(f"right with {' and '.join(looked)}")] if looked else [not_applicable("not finite there")]


def _zeros_and_ties(x: Tensor, share: Tensor) -> Tensor:
    """A quarter of the numbers zero, an eighth the same as their neighbours, and an eighth as their row's largest."""
    tied = torch.where((share >= 0.25) & (share < 0.375), x.roll(1, -1), x)
    tied = torch.where((share >= 0.375) & (share < 0.5), x.amax(-1, keepdim=True), tied)
    return torch.where(share < 0.25, 0, tied)


def _large(x: Tensor, share: Tensor) -> Tensor:
    """An eighth of the numbers large, the largest and the smallest among them, so that either sign is."""
    size = SIZES.get(x.dtype, SIZE_IN_FLOAT32)
    return torch.where((share >= 0.875) | (x == x.max()) | (x == x.min()), size * x.sign(), x)


def _with(ctx: Context, kind: Callable[[Tensor, Tensor], Tensor]) -> list[Any]:
    inputs = [x.detach() if isinstance(x, Tensor) else x for x in ctx.subject.inputs]
    for i in ctx.checked:
        if inputs[i].numel() > 1:
            # Of every kind as many as its share, also among few numbers.
            order = torch.randperm(inputs[i].numel(), generator=ctx.generator, device="cpu").to(inputs[i].device)
            inputs[i] = kind(inputs[i], (order / order.numel()).reshape(inputs[i].shape))
    return inputs


def _finite_there(ctx: Context, inputs: Sequence[Any]) -> bool:
    """True if outputs are finite, and gradients too where a reference gives them, in the inputs' own precision."""
    reference = ctx.gradient_reference or ctx.reference
    try:
        if reference is None:
            return all(bool(y.isfinite().all()) for y in ctx.subject.values(inputs))
        evaluated = reference.call(inputs)
        gradients = evaluated.gradients(ctx.checked, [torch.ones_like(y) for y in evaluated.outputs])
    except CallFailed:
        return False
    return all(bool(x.isfinite().all()) for x in (*evaluated.outputs, *gradients))


def _judged(ctx: Context, inputs: Sequence[Any], words: str, tolerance: float) -> list[Finding]:
    try:
        there = ctx.at(inputs, words)
        there.options = replace(there.options, tolerance=tolerance)
    except CallFailed as failure:
        return [failed(f"its {failure}", words)] if ctx.reference is not None else []
    small = sum(ctx.subject.inputs[i].numel() for i in ctx.checked) <= DIFFERENCES_SUIT
    if ctx.reference is None:
        try:
            gradients = there.subject.vjp(there.gaussian())
        except CallFailed as failure:
            return [failed(f"its {failure}", words, severity=Severity.WARNING)]
        names = [ctx.name(place) for place, g in enumerate(gradients) if bool(g.isnan().any())]
        if names:
            text = f"with {words} among the inputs the gradient is NaN and the outputs are finite"
            return [failed(text, ", ".join(names), severity=Severity.WARNING)]
        if not small or not all(bool(g.isfinite().all()) for g in gradients):
            return []
    return failures_at(there, words) or ([] if words == LARGE else _along_ties(there, words))


def _along_ties(there: Context, words: str) -> list[Finding]:
    """What differs along directions that keep zeros zero and equal numbers equal, along which these make no kink."""
    if there.gradient_reference is None:
        return []
    upstream = there.gaussian()
    ours = there.subject.vjp(upstream)
    values = reference_gradients(there.gradient_reference, upstream, there.generator)
    findings = []
    for place, (g, e) in enumerate(zip(ours, values.exact, strict=True)):
        x = there.subject.inputs[there.checked[place]]
        different, group = x.detach().unique(return_inverse=True)
        u = normal(different.shape, there.generator, x.device)[group] * (x != 0)
        found, expected = dot([u], [g]), dot([u], [e])
        rounding = values.allowed_norm(place, values.compare(place, "", g))
        if not abs(found - expected) <= LARGE_TOLERANCE * norm(e) + STANDARD_DEVIATIONS * rounding:
            text = f"where equal numbers move together, the slope is {found:.9g} by it, {expected:.9g} by the reference"
            findings.append(failed(text, f"{words}: {there.name(place)}"))
    return findings
