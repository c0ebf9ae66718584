"""Outputs and gradients in the precision under test, against those of a reference in float64.

``vᵀ ∂outputs/∂input`` of the function, against reverse-mode autograd of the reference in float64; how much rounding
explains is measured on the reference in that same precision (``comparison``). With k independent Gaussian ``v``, an
error in the derivative of spectral norm σ stays below a tolerance τ in all of them with probability at most
``(√(2/π) τ/σ)ᵏ``: the component of ``v`` along the error's leading direction is Gaussian.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.crosscheck.calls import Upstream, norm
from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.diagnosis import Candidate, Diagnosis, Kind, diagnose
from lean_mnist.crosscheck.numerics.kinks import at_a_kink
from lean_mnist.crosscheck.numerics.reference_outputs import ReferenceValues, reference_gradients, reference_outputs
from lean_mnist.crosscheck.report import GRADIENT, OUTPUT, Finding, Verdict
from lean_mnist.crosscheck.rules import rule
from lean_mnist.errors import ArgumentError


def escape_probability(probes: int, times_tolerance: float = 100.0) -> float:
    """At most so probable is it that an error ``times_tolerance`` times what is allowed passes all probes."""
    return (math.sqrt(2 / math.pi) / times_tolerance) ** probes


@rule(GRADIENT, order=10)
def compare_with_reference(ctx: Context) -> list[Finding]:
    """Outputs and gradients of the function beside those of the reference, for ``probes`` upstream gradients."""
    if ctx.reference is None:
        return []
    values = reference_outputs(ctx.reference, [y.dtype for y in ctx.outputs], ctx.generator)
    findings = []
    for k, y in enumerate(ctx.outputs):
        d = values.recheck(k, f"output {k}", y)
        verdict, diagnosis = (Verdict.PASSED, None) if d.passed else (Verdict.FAILED, diagnose(y, values.exact[k]))
        findings.append(Finding(verdict, str(d), f"output {k}", diagnosis, OUTPUT, d))
    worst: dict[int, _Compared] = {}
    for _ in range(ctx.probes):
        upstream = ctx.gaussian()
        evaluated = ctx.subject.call()
        found = evaluated.vjp(ctx.checked, [v.clone() for v in upstream])
        values = reference_gradients(ctx.reference, upstream, ctx.generator)
        _refuse_infinite(ctx, values)
        for place, g in enumerate(found):
            before = worst.get(place)
            if before is not None and not before.divergence.passed:
                continue  # one probe that fails is enough
            ours = torch.zeros_like(evaluated.leaves[ctx.checked[place]]) if g is None else g.detach()
            divergence = values.recheck(place, f"gradient of {ctx.name(place)}", ours)
            if before is None or not divergence.share <= before.divergence.share:
                worst[place] = _Compared(divergence, ours, g is None, values, upstream)
    return findings + [_finding(ctx, place, worst[place]) for place in sorted(worst)]


class _Compared(NamedTuple):
    """The gradient of one input for one probe: ours (``none`` if the backward gave ``None``) and the reference's."""

    divergence: Divergence
    ours: Tensor
    none: bool
    values: ReferenceValues
    upstream: Upstream


def _refuse_infinite(ctx: Context, values: ReferenceValues) -> None:
    for place, exact in enumerate(values.exact):
        if not bool(exact.isfinite().all()):
            raise ArgumentError(
                f"reference: expected a finite gradient of {ctx.name(place)}, found one that is not at these inputs; "
                "choose others"
            )


def _finding(ctx: Context, place: int, compared: _Compared) -> Finding:
    divergence, text, verdict = compared.divergence, str(compared.divergence), Verdict.PASSED
    diagnosis = None
    if not divergence.passed:
        error = norm(compared.ours.double() - compared.values.exact[place])
        if not compared.none and at_a_kink(ctx, place, compared.upstream, error):
            ctx.kinks.add(place)
            verdict, text = Verdict.KINK, f"{text}; the reference's own gradient jumps within rounding"
        else:
            verdict, diagnosis = Verdict.FAILED, _diagnose(ctx, place, compared)
            text += "; the backward returned None for it" if compared.none else ""
    return Finding(verdict, text, ctx.name(place), diagnosis, GRADIENT, divergence)


def _diagnose(ctx: Context, place: int, compared: _Compared) -> Diagnosis:
    assert ctx.reference is not None
    exact, upstream = compared.values.exact[place], compared.upstream
    ones = ctx.reference.vjp([None if v is None else torch.ones_like(v) for v in upstream], dtype=torch.float64)
    tensors = [x for x in ctx.subject.inputs if isinstance(x, Tensor)]
    allowed = compared.values.allowed_norm(place, compared.divergence)
    return diagnose(
        compared.ours,
        exact,
        upstream[0] if len(upstream) == 1 else None,
        tolerance=3 * allowed / math.sqrt(max(exact.numel(), 1)),
        candidates=[
            Candidate(Kind.UPSTREAM_IGNORED, "this is the gradient for an upstream gradient of ones", ones[place])
        ],
        terms={ctx.name(place): ctx.subject.inputs[ctx.checked[place]]},
        sizes=[*(n for x in tensors for n in x.shape), *(x.numel() for x in tensors)],
    )
