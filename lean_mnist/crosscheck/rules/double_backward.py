"""The backward differentiated once more, and under autocast: right, or refused with an error, never silently wrong.

*Double backward.* With ``g(x, v) = Jᵀ v`` and a random ``w``, the gradients of ``⟨g, w⟩`` in ``x`` and in ``v``,
against those of the reference in float64, or, without one, against differences of ``g`` itself. A backward that uses
what its forward computed on the way (and is not an input or output) loses the graph there; it should say so by
``@once_differentiable``.

*Autocast.* Forward and backward under ``torch.autocast``, and the forward alone, as PyTorch advises: ``low_precision``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lean_mnist.crosscheck.calls import (
    CallFailed,
    Subject,
    Upstream,
    dot,
    norm,
    normal,
    one_line,
    root_mean_square,
)
from lean_mnist.crosscheck.context import SCATTER_CALLS, SCATTER_FACTOR, Context
from lean_mnist.crosscheck.diagnosis import diagnose
from lean_mnist.crosscheck.numerics import step_sizes as ladders
from lean_mnist.crosscheck.numerics.differences import judge
from lean_mnist.crosscheck.numerics.perturbation import Jitter, jittered_vjp
from lean_mnist.crosscheck.report import Finding, failed, kink, not_applicable, passed

DOUBLE = "double backward"
REFUSED = "refused with an error"
# In float64 a right second derivative is off by some 1e-15; a wrong one is off by some of its terms.
RELATIVE, ABSOLUTE = 1e-6, 1e-9


class Refused(Exception):
    """The function cannot be differentiated twice, and says so."""


def second_derivatives(
    subject: Subject, upstream: Upstream, weights: Sequence[Tensor], dtype: torch.dtype | None
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """First derivatives ``g``, and the gradients of ``⟨g, weights⟩`` in the checked inputs and in ``upstream``.

    Raises ``Refused``.
    """
    evaluated = subject.call(dtype=dtype)
    leaves = [v.detach().clone().requires_grad_() for v in upstream if v is not None]
    try:
        found = evaluated.vjp(subject.checked, leaves, create_graph=True)
        first = [
            torch.zeros_like(evaluated.leaves[i]) if g is None else g
            for i, g in zip(subject.checked, found, strict=True)
        ]
        with_graph = [(g, w.to(g.dtype)) for g, w in zip(first, weights, strict=True) if g.requires_grad]
        if not with_graph:
            raise Refused("its gradient carries no graph")
        # Unlike torch.autograd.grad, this visits every node, also the one by which once_differentiable refuses.
        torch.autograd.backward([g for g, _ in with_graph], [w for _, w in with_graph])
        wanted = [*(evaluated.leaves[i] for i in subject.checked), *leaves]
        second = [torch.zeros_like(x) if x.grad is None else x.grad for x in wanted]
    except CallFailed as failure:
        raise Refused(str(failure)) from failure
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        raise Refused(one_line(error, 120)) from error
    count = len(subject.checked)
    return [g.detach() for g in first], second[:count], second[count:]


@dataclass
class _Twice:
    """The function differentiated twice, and how far rounding may move that (looked at only when it matters)."""

    ctx: Context
    upstream: Upstream
    weights: list[Tensor]
    dtype: torch.dtype | None
    first: list[Tensor]
    second: list[Tensor]
    in_upstream: list[Tensor]

    @property
    def unit(self) -> float:
        return self.ctx.unit if self.dtype is None else torch.finfo(self.dtype).eps / 2

    def scatter(self, measure: Callable[[list[Tensor], list[Tensor]], float]) -> float:
        """The largest change of ``measure(second, in_upstream)`` when every rounding is drawn anew."""
        here = measure(self.second, self.in_upstream)
        largest = 0.0
        for _ in range(SCATTER_CALLS):
            with Jitter(self.ctx.generator):
                _, *again = second_derivatives(self.ctx.subject, self.upstream, self.weights, self.dtype)
            largest = max(largest, abs(measure(*again) - here))
        return largest


def double_backward(ctx: Context) -> list[Finding]:
    """Right to the precision of float64 (or of its own, where it does not take float64), or refused with an error."""
    dtype = torch.float64 if not ctx.float64 else None
    upstream = [None if v is None else v.to(dtype or v.dtype) for v in ctx.gaussian()]
    weights = [normal(x.shape, ctx.generator, x.device) for x in (ctx.subject.inputs[i] for i in ctx.checked)]
    try:
        twice = _Twice(ctx, upstream, weights, dtype, *second_derivatives(ctx.subject, upstream, weights, dtype))
    except Refused as refusal:
        return [passed(DOUBLE, f"{REFUSED} ({refusal})")]
    if ctx.reference is None:
        findings = _against_differences(twice)
    else:
        in64 = [None if v is None else v.double() for v in upstream]
        try:
            _, exact, _ = second_derivatives(ctx.reference, in64, weights, torch.float64)
        except Refused as refusal:
            return [not_applicable(DOUBLE, f"the reference: {refusal}")]
        findings = _against_reference(twice, exact)
    findings += _in_upstream(twice)
    return findings or [passed(DOUBLE, "right")]


def _in_upstream(twice: _Twice) -> list[Finding]:
    """``Jᵀ v`` is linear in ``v``, so its derivative in ``v``, applied to any ``z``, is ``⟨g(z), w⟩``."""
    ctx, used = twice.ctx, [v for v in twice.upstream if v is not None]
    z = [normal(v.shape, ctx.generator, v.device).to(v.dtype) for v in used]
    gradients = ctx.subject.vjp(z, dtype=twice.dtype)
    expected, found = dot(gradients, twice.weights), dot(twice.in_upstream, z)
    size = sum(norm(g) * norm(w) for g, w in zip(gradients, twice.weights, strict=True))
    allowed = max(RELATIVE, 1e4 * twice.unit) * size + torch.finfo(torch.float32).tiny
    difference = abs(found - expected)
    if not difference <= allowed:
        scatter = twice.scatter(lambda _, in_upstream: dot(in_upstream, z))
        for _ in range(SCATTER_CALLS):
            moved = jittered_vjp(ctx.subject, z, ctx.subject.inputs, ctx.generator, twice.dtype)
            scatter = max(scatter, abs(dot(moved, twice.weights) - expected))
        allowed += SCATTER_FACTOR * scatter
    if difference <= allowed:
        return []
    text = f"⟨g(z), w⟩ is {expected:.6g}, and by its derivative {found:.6g}"
    return [failed(DOUBLE, text, "the upstream gradient")]


def _against_reference(twice: _Twice, exact: Sequence[Tensor]) -> list[Finding]:
    ctx, unit = twice.ctx, twice.unit
    size = max((norm(g) for g in (*exact, *twice.first)), default=0.0)
    findings = []
    for place, (ours, reference) in enumerate(zip(twice.second, exact, strict=True)):
        difference = norm(ours.double() - reference)
        relative = min(max(RELATIVE, 1e4 * unit), 0.1)
        allowed = relative * norm(reference) + max(ABSOLUTE, 100 * unit) * size
        if difference <= allowed or not bool(reference.isfinite().all()):
            continue

        def change(second: list[Tensor], _: list[Tensor], place: int = place, ours: Tensor = ours) -> float:
            return norm(second[place] - ours)

        if difference <= allowed + SCATTER_FACTOR * twice.scatter(change):
            continue
        if place in ctx.kinks:
            findings.append(kink(DOUBLE, "at a kink", ctx.name(place)))
            continue
        words = "another second derivative than the reference's" if bool(ours.any()) else "silently zero"
        findings.append(failed(DOUBLE, words, ctx.name(place), diagnose(ours, reference)))
    return findings


def _against_differences(twice: _Twice) -> list[Finding]:
    ctx = twice.ctx
    if ctx.float64:
        return [not_applicable(DOUBLE, "no reference, and no float64 in which to take differences of the gradient")]
    findings = []
    for place, i in enumerate(ctx.checked):
        ours = twice.second[place]
        if not ours.numel():
            continue

        def gradient_at(at: Sequence[Tensor], i: int = i) -> list[Tensor]:
            inputs = [*ctx.subject.inputs[:i], at[0], *ctx.subject.inputs[i + 1 :]]
            return ctx.subject.vjp(twice.upstream, inputs, dtype=torch.float64)

        x = ctx.subject.inputs[i].detach().double()
        u = root_mean_square(x) * normal(x.shape, ctx.generator, x.device)
        line = ladders.Line(gradient_at, [x], [u], twice.weights)
        try:
            noise = ladders.noise_of(line, ladders.SPACINGS[torch.float64])

            def scatter(place: int = place, u: Tensor = u) -> float:
                return twice.scatter(lambda second, _: dot([u], [second[place]]))

            floor = ABSOLUTE * norm(u * ours)
            outcome = judge(line, [ours], floor, scatter, ladders.STEPS[torch.float64], noise)
        except CallFailed:
            continue
        if outcome.slope in ("failed", "kink"):
            make = failed if outcome.slope == "failed" else kink
            silent = "" if bool(ours.any()) else "silently zero: "
            findings.append(make(DOUBLE, f"{silent}{outcome.slope_text}", ctx.name(place)))
    return findings
