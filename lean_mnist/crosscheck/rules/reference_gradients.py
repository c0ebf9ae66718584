"""Outputs and gradients in the precision under test, against those of a reference in float64.

``vᵀ ∂outputs/∂input`` of the function, against reverse-mode autograd of the reference in float64; how much rounding
explains is measured on the reference in that same precision (``comparison``). With k independent Gaussian ``v``, an
error in the derivative of spectral norm σ stays below a tolerance τ in all of them with probability at most
``(√(2/π) τ/σ)ᵏ``: the component of ``v`` along the error's leading direction is Gaussian.

``⟨J u, v⟩ = ⟨u, Jᵀ v⟩``, with ``J u`` by forward-mode AD of the reference and ``Jᵀ v`` by the function's backward:
other formulas than reverse mode, no step size, nothing but round-off (Griewank and Walther, *Evaluating Derivatives*,
2nd ed., section 3.3). Its tolerance is six standard deviations of ``⟨u, e⟩`` for Gaussian ``u``, with ``‖e‖`` the error
that the comparison of gradients allows.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.crosscheck.context import SCATTER_FACTOR, Context
from lean_mnist.crosscheck.diagnosis import Candidate, Diagnosis, Kind, Pointwise, diagnose
from lean_mnist.crosscheck.numerics.differences import STANDARD_DEVIATIONS
from lean_mnist.crosscheck.numerics.in_float64 import reference_is_off
from lean_mnist.crosscheck.numerics.kinks import at_a_kink
from lean_mnist.crosscheck.numerics.reference_outputs import ReferenceValues, reference_gradients, reference_outputs
from lean_mnist.crosscheck.perturbation import perturbed, perturbed_vjp, scatter
from lean_mnist.crosscheck.report import GRADIENT, OUTPUT, Finding, Verdict, failed, kink, not_applicable, passed
from lean_mnist.crosscheck.rules import rule
from lean_mnist.crosscheck.subjects.arguments import floating_outputs
from lean_mnist.crosscheck.subjects.calls import NotChecked, Subject, Upstream, one_line
from lean_mnist.crosscheck.subjects.numbers import dot, in_dtype, norm, random_direction, root_mean_square
from lean_mnist.errors import ArgumentError


def escape_probability(probes: int) -> float:
    """At most so probable is it that an error 100 times what is allowed passes all probes."""
    return (math.sqrt(2 / math.pi) / 100) ** probes


@rule(GRADIENT, order=10, also=(OUTPUT,), oracle=True, fast=True)
def compare_with_reference(ctx: Context) -> list[Finding]:
    """Outputs and gradients of the function beside those of the reference, for ``probes`` upstream gradients."""
    worst = dict[int, Finding]()
    if ctx.gradient_reference is not None:
        for given in (*[ctx.fixed_upstream] * ctx.options.probes, *ctx.given_upstream):
            shared = ctx.large and not worst
            _probe(ctx, ctx.gradient_reference, worst, given or (ctx.base[0] if shared else ctx.gaussian()))
    marked = [not_applicable("marked non-differentiable", f"output {k}") for k in sorted(ctx.marked)]
    return _compare_outputs(ctx) + [worst[place] for place in sorted(worst)] + marked


def _compare_outputs(ctx: Context) -> list[Finding]:
    if ctx.reference is None:
        return []
    values = reference_outputs(ctx.reference, [y.dtype for y in ctx.outputs], ctx.generator, ctx.options.tolerance)
    findings = []
    for k, y in enumerate(ctx.outputs):
        d = values.recheck(k, f"output {k}", y)
        verdict, diagnosis = (Verdict.PASSED, None) if d.passed else (Verdict.FAILED, diagnose(y, values.exact[k]))
        findings.append(Finding(verdict, str(d), f"output {k}", diagnosis, OUTPUT, d))
    return findings


def _probe(ctx: Context, reference: Subject, worst: dict[int, Finding], upstream: Upstream) -> None:
    """Compare the gradients for one upstream gradient, and keep the ``worst`` finding of each."""
    found: Sequence[Tensor | None]
    if ctx.large and upstream is ctx.base[0]:
        found = ours = ctx.base[1]
    else:
        evaluated = ctx.subject.call()
        found = evaluated.vjp(ctx.checked, [None if v is None else v.clone() for v in upstream])
        ours = [g.detach() for g in evaluated.filled(ctx.checked, found)]
    values = reference_gradients(reference, upstream, ctx.generator, tolerance=ctx.options.tolerance)
    for place, exact in enumerate(values.exact):
        if not bool(exact.isfinite().all()):
            raise ArgumentError(
                f"reference: expected a finite gradient of {ctx.name(place)}, found one that is not at these "
                "inputs; choose others"
            )
    for place, g in enumerate(ours):
        before = worst[place].divergence if place in worst else None
        if before is not None and not before.passed:
            continue  # one probe that fails is enough
        divergence = values.recheck(place, f"gradient of {ctx.name(place)}", g)
        if before is not None and divergence.share <= before.share:
            continue
        text, verdict, diagnosis, none = str(divergence), Verdict.PASSED, None, found[place] is None
        if divergence.passed:
            pass
        elif not none and at_a_kink(ctx, place, upstream, norm(g.double() - values.exact[place])):
            ctx.kinks.add(place)
            verdict, text = Verdict.KINK, f"{text}; the reference's own gradient jumps within rounding"
        elif not none and (off := reference_is_off(ctx, reference, place, upstream)):
            verdict, text = Verdict.INCONCLUSIVE, off
        elif ctx.coarsest and place not in ctx.differing(ours, values.exact, upstream):
            text += ", within the precision of autocast or TF32"
        else:
            verdict, diagnosis = Verdict.FAILED, _diagnose(ctx, place, divergence, g, values, upstream)
            text += "; the backward returned None for it" * none
        worst[place] = Finding(verdict, text, ctx.name(place), diagnosis, GRADIENT, divergence)


def _diagnose(
    ctx: Context, place: int, divergence: Divergence, ours: Tensor, values: ReferenceValues, upstream: Upstream
) -> Diagnosis:
    assert ctx.gradient_reference is not None
    exact, v = values.exact[place], upstream[0] if len(upstream) == 1 else None
    given = [None if v is None else torch.ones_like(v) for v in upstream]
    ones = ctx.gradient_reference.vjp(given, dtype=torch.float64)[place]
    candidates = [Candidate(Kind.UPSTREAM_IGNORED, "this is the gradient for an upstream gradient of ones", ones)]
    if v is not None and v.numel():
        mean, first = float(v.double().mean()), float(v.flatten()[0])
        words = "this is the gradient for an upstream gradient of"
        candidates.append(Candidate(Kind.UPSTREAM_IGNORED, f"{words} its mean everywhere", mean * ones))
        candidates.append(Candidate(Kind.UPSTREAM_IGNORED, f"{words} its first number everywhere", first * ones))
    for other, gradient in enumerate(values.exact):
        if other != place and gradient.shape == exact.shape:
            words = f"this is the gradient of {ctx.name(other)}"
            candidates.append(Candidate(Kind.SWAPPED_TENSORS, words, gradient))
    x, tensors = ctx.subject.inputs[ctx.checked[place]], [x for x in ctx.subject.inputs if isinstance(x, Tensor)]
    pointwise = None
    if v is not None and v.shape == exact.shape and not bool(((ours == 0) != (exact == 0)).any()):
        # The right gradient may be an elementwise product; where it is the zeros that differ, that says nothing.
        pointwise = Pointwise(x.detach(), v) if norm(exact - v.double() * ones) <= 1e-9 * norm(exact) else None
    return diagnose(
        ours,
        exact,
        v,
        tolerance=3 * values.allowed_norm(place, divergence) / math.sqrt(max(exact.numel(), 1)),
        candidates=candidates,
        terms={ctx.name(place): x},
        sizes=[*(n for x in tensors for n in x.shape), *(x.numel() for x in tensors)],
        pointwise=pointwise,
    )


@rule("JVP-VJP product", order=20, oracle=True, copies=24)
def forward_mode(ctx: Context) -> list[Finding]:
    """``⟨J u, v⟩ = ⟨u, Jᵀ v⟩`` for random ``u`` and ``v``, one input at a time."""
    reference = ctx.gradient_reference
    if reference is None:
        return [not_applicable("no reference")]
    dtype = torch.float64 if not ctx.why_not_float64 else None
    findings: dict[int, Finding] = {}
    for number in range(ctx.options.probes):
        if ctx.large and dtype is not None:  # one upstream gradient, and as many directions
            upstream, gradients = ctx.base[0], ctx.in_float64[1]
        else:
            upstream = ctx.gaussian()
            gradients = ctx.subject.vjp(upstream, dtype=dtype)
        if not (ctx.large and number):
            values = reference_gradients(reference, upstream, ctx.generator, dtype, ctx.options.tolerance)
        for place, g in enumerate(gradients):
            if place in findings and findings[place].verdict in (Verdict.FAILED, Verdict.NOT_APPLICABLE):
                continue
            finding = _both_products(ctx, reference, place, upstream, g, values)
            if finding.verdict is not Verdict.PASSED or place not in findings:
                findings[place] = finding
    return [findings[place] for place in sorted(findings)]


def _both_products(
    ctx: Context, reference: Subject, place: int, upstream: list[Tensor], g: Tensor, values: ReferenceValues
) -> Finding:
    """Both products for the gradient ``g`` of one input, along one random direction."""
    i, name, dtype = ctx.checked[place], ctx.name(place), None if ctx.why_not_float64 else torch.float64
    inputs = in_dtype(reference.inputs, torch.float64)
    x = inputs[i]
    u = random_direction(x, ctx.generator)
    try:
        forward, backward = dot(upstream, tangents(reference, inputs, {i: u})), dot([u], [g])
    except Exception as error:  # not every operation has a forward-mode formula, and a Function seldom has
        if NotChecked.of(error):
            raise
        return not_applicable(f"the reference has no forward-mode derivative ({one_line(error, 120)})", name)

    def change() -> float:
        given = [v.to(dtype or v.dtype) for v in upstream]
        drawn = perturbed_vjp(ctx.subject, given, ctx.subject.inputs, ctx.generator, dtype)
        # Not by a dispatch mode as well: PyTorch can crash where forward mode runs under one.
        inputs[i] = perturbed(x, ctx.generator)
        again = tangents(reference, inputs, {i: perturbed(u, ctx.generator)})
        return max(abs(dot(upstream, again) - forward), abs(dot([u], [drawn[place]]) - backward))

    difference, scale = abs(forward - backward), STANDARD_DEVIATIONS * root_mean_square(x)
    tolerance = scale * values.allowed_norm(place, values.compare(place, name, g))
    if not difference <= tolerance:
        tolerance = scale * values.allowed_norm(place, values.recheck(place, name, g))
    if tolerance < difference < math.inf:  # float64 rounds too, and more may cancel
        tolerance += SCATTER_FACTOR * scatter(change)
    text = f"⟨Ju, v⟩ = {forward:.9g}, ⟨u, Jᵀv⟩ = {backward:.9g} (rounding explains {tolerance:.2e})"
    if difference <= tolerance:
        return passed(text, name)
    at_kink = place in ctx.kinks or at_a_kink(ctx, place, upstream, norm(g.double() - values.exact[place]))
    if at_kink:
        return kink(text, name)
    off = reference_is_off(ctx, reference, place, upstream)
    return Finding(Verdict.INCONCLUSIVE, off, name) if off else failed(text, name)


def tangents(subject: Subject, inputs: Sequence[Any], directions: Mapping[int, Tensor]) -> list[Tensor]:
    """``Σ_i ∂outputs/∂(input i) directions[i]`` at ``inputs``.

    Not by ``torch.func.jvp``, whose decompositions import PyTorch's compiler.
    """
    with warnings.catch_warnings(), torch.enable_grad(), forward_ad.dual_level():
        warnings.simplefilter("ignore")  # that forward mode is slow for some operation is no news here
        given = [forward_ad.make_dual(x.clone(), directions[i]) if i in directions else x for i, x in enumerate(inputs)]
        duals = [forward_ad.unpack_dual(y) for y in floating_outputs(subject(*given), subject.role)]
    return [torch.zeros_like(y.primal) if y.tangent is None else y.tangent for y in duals]
