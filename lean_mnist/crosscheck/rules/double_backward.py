"""The backward differentiated once more: right, or refused with an error, never silently wrong.

With ``g(x, v) = Jᵀ v``, the gradients of ``⟨g, w⟩`` in ``x`` and ``v``, against the reference's in float64, or against
differences of ``g``. A backward that uses an intermediate value of its forward loses the graph, and should say so.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.crosscheck.context import SCATTER_FACTOR, Context
from lean_mnist.crosscheck.diagnosis import diagnose
from lean_mnist.crosscheck.numerics.differences import judge, line_through
from lean_mnist.crosscheck.numerics.step_sizes import noise_of
from lean_mnist.crosscheck.perturbation import Perturbing, perturbed_vjp, scatter
from lean_mnist.crosscheck.report import Finding, Severity, Verdict, failed, kink, not_applicable, passed
from lean_mnist.crosscheck.rules import rule
from lean_mnist.crosscheck.subjects.calls import CallFailed, NotChecked, Subject, Upstream, one_line
from lean_mnist.crosscheck.subjects.numbers import dot, norm, normal

# In float64 a right second derivative is off by some 1e-15; a wrong one is off by some of its terms.
RELATIVE, ABSOLUTE = 1e-6, 1e-9


class Refused(Exception):
    """The function cannot be differentiated twice, and says so."""


class SecondDerivatives(NamedTuple):
    """First derivatives ``g``, and the gradients of ``⟨g, w⟩`` in the checked inputs and in the upstream gradients."""

    first: list[Tensor]
    in_inputs: list[Tensor]
    in_upstream: list[Tensor]


def second_derivatives(
    subject: Subject, upstream: Upstream, weights: Sequence[Tensor], dtype: torch.dtype | None
) -> SecondDerivatives:
    """Differentiate ``subject`` twice in ``dtype``, with ``w = weights``. Raises ``Refused``."""
    evaluated = subject.call(dtype=dtype)
    inputs = [evaluated.leaves[i] for i in subject.checked]
    leaves = [v.detach().clone().requires_grad_() for v in upstream if v is not None]
    try:
        first = evaluated.filled(subject.checked, evaluated.vjp(subject.checked, leaves, create_graph=True))
        with_graph = [(g, w.to(g.dtype)) for g, w in zip(first, weights, strict=True) if g.requires_grad]
        if not with_graph:
            raise Refused("its gradient carries no graph")
        # Unlike torch.autograd.grad, this visits every node, also the one by which once_differentiable refuses.
        torch.autograd.backward([g for g, _ in with_graph], [w for _, w in with_graph])
        second = [torch.zeros_like(x) if x.grad is None else x.grad for x in (*inputs, *leaves)]
    except CallFailed as failure:
        raise Refused(str(failure)) from failure
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        if NotChecked.of(error):
            raise
        raise Refused(one_line(error, 120)) from error
    return SecondDerivatives([g.detach() for g in first], second[: len(inputs)], second[len(inputs) :])


@dataclass
class _Twice:
    """The function differentiated twice."""

    ctx: Context
    upstream: list[Tensor]
    weights: list[Tensor]
    dtype: torch.dtype | None
    unit: float
    found: SecondDerivatives

    def again(self) -> SecondDerivatives:
        """The same under ulp perturbations."""
        with Perturbing(self.ctx.generator):
            return second_derivatives(self.ctx.subject, self.upstream, self.weights, self.dtype)


@rule("double backward", order=110, varies=True, severity=Severity.WARNING, copies=24, part=True, if_right=True)
def double_backward(ctx: Context) -> list[Finding]:
    """Right to the precision of float64 (or of its own, where it does not take float64), or refused with an error."""
    dtype = torch.float64 if not ctx.why_not_float64 else None
    unit = ctx.unit if dtype is None else torch.finfo(dtype).eps / 2
    upstream = [v.to(dtype or v.dtype) for v in ctx.gaussian()]
    weights = [normal(x.shape, ctx.generator, x.device) for x in (ctx.subject.inputs[i] for i in ctx.checked)]
    try:
        found = second_derivatives(ctx.subject, upstream, weights, dtype)
    except Refused as refusal:
        return [passed(f"refused with an error ({refusal})")]
    twice = _Twice(ctx, upstream, weights, dtype, unit, found)
    if ctx.gradient_reference is None:
        findings = _against_differences(twice)
    else:
        try:
            exact = second_derivatives(ctx.gradient_reference, [v.double() for v in upstream], weights, torch.float64)
        except Refused as refusal:
            return [not_applicable(f"the reference: {refusal}")]
        findings = _against_reference(twice, exact.in_inputs)
    findings += _in_upstream(twice)
    return findings or [passed("right")]


def _in_upstream(twice: _Twice) -> list[Finding]:
    """``Jᵀ v`` is linear in ``v``, so its derivative in ``v``, applied to any ``z``, is ``⟨g(z), w⟩``."""
    ctx, weights = twice.ctx, twice.weights
    z = [normal(v.shape, ctx.generator, v.device).to(v.dtype) for v in twice.upstream]
    gradients = ctx.subject.vjp(z, dtype=twice.dtype)
    expected, found = dot(gradients, weights), dot(twice.found.in_upstream, z)
    size = sum(norm(g) * norm(w) for g, w in zip(gradients, weights, strict=True))
    allowed = (max(RELATIVE, 1e4 * twice.unit) + ctx.options.tolerance) * size + torch.finfo(torch.float32).tiny
    if not abs(found - expected) <= allowed:

        def drawn() -> float:
            return dot(perturbed_vjp(ctx.subject, z, ctx.subject.inputs, ctx.generator, twice.dtype), weights)

        derivative = scatter(lambda: abs(dot(twice.again().in_upstream, z) - found))
        allowed += SCATTER_FACTOR * max(derivative, scatter(lambda: abs(drawn() - expected)))
    if abs(found - expected) <= allowed:
        return []
    return [failed(f"⟨g(z), w⟩ is {expected:.6g}, and by its derivative {found:.6g}", "the upstream gradient")]


def _against_reference(twice: _Twice, exact: Sequence[Tensor]) -> list[Finding]:
    ctx, unit = twice.ctx, twice.unit
    size = max((norm(g) for g in (*exact, *twice.found.first)), default=0.0)
    relative = min(max(RELATIVE, 1e4 * unit), 0.1) + ctx.options.tolerance
    absolute = max(ABSOLUTE, 100 * unit) * size
    findings = []
    for place, (ours, reference) in enumerate(zip(twice.found.in_inputs, exact, strict=True)):
        if not bool(reference.isfinite().all()):
            findings.append(not_applicable("the reference's is not finite", ctx.name(place)))
            continue
        difference, allowed = norm(ours.double() - reference), relative * norm(reference) + absolute
        if difference <= allowed:
            continue
        if difference <= allowed + SCATTER_FACTOR * scatter(functools.partial(_change, twice, place)):
            continue
        words = "another second derivative than the reference's" if bool(ours.any()) else "silently zero"
        wrong = failed(words, ctx.name(place), diagnose(ours, reference))
        findings.append(kink("at a kink", ctx.name(place)) if place in ctx.kinks else wrong)
    return findings


def _against_differences(twice: _Twice) -> list[Finding]:
    ctx = twice.ctx
    if ctx.why_not_float64:
        return [not_applicable("no reference, and no float64 in which to take differences of the gradient")]

    def gradient_at(inputs: list[object]) -> list[Tensor]:
        return ctx.subject.vjp(twice.upstream, inputs, dtype=torch.float64)

    findings = []
    for place, ours in enumerate(twice.found.in_inputs):
        if not ours.numel():
            continue
        line = line_through(ctx.subject, [place], torch.float64, ctx.generator, twice.weights, evaluate=gradient_at)
        along = line.directions[0]
        change = functools.partial(_change, twice, place, along)
        allowed = ABSOLUTE * norm(along * ours) + ctx.options.tolerance * norm(along) * norm(ours)
        try:
            slope = judge(line, [ours], allowed, change, noise_of(line)).slope
        except CallFailed as failure:
            slope = not_applicable(f"around this point its {failure}")
        if slope.verdict is not Verdict.PASSED:
            silent = "" if bool(ours.any()) else "silently zero: "
            findings.append(replace(slope, text=f"{silent}{slope.text}", subject=ctx.name(place)))
    return findings


def _change(twice: _Twice, place: int, along: Tensor | None = None) -> float:
    """The size of the change of one second derivative (or of its part ``along``) under ulp perturbations."""
    shift = twice.again().in_inputs[place] - twice.found.in_inputs[place]
    return norm(shift) if along is None else abs(dot([along], [shift]))
