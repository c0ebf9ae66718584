"""``⟨J u, v⟩ = ⟨u, Jᵀ v⟩``, with ``J u`` by forward-mode AD of the reference and ``Jᵀ v`` by the function's backward.

Other formulas than reverse mode, no step size, nothing but round-off (Griewank and Walther, *Evaluating Derivatives*,
2nd ed., section 3.3). Its tolerance is six standard deviations of ``⟨u, e⟩`` for Gaussian ``u``, with ``‖e‖`` the error
that the comparison with the reference allows.
"""

import math
import warnings

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lean_mnist.crosscheck.context import SCATTER_FACTOR, Context
from lean_mnist.crosscheck.numerics.differences import STANDARD_DEVIATIONS
from lean_mnist.crosscheck.numerics.in_float64 import reference_is_off
from lean_mnist.crosscheck.numerics.kinks import at_a_kink
from lean_mnist.crosscheck.numerics.reference_outputs import ReferenceValues, reference_gradients
from lean_mnist.crosscheck.perturbation import perturbed, perturbed_vjp, scatter
from lean_mnist.crosscheck.report import Finding, Verdict, failed, kink, not_applicable, passed
from lean_mnist.crosscheck.rules import rule
from lean_mnist.crosscheck.subjects.arguments import floating_outputs
from lean_mnist.crosscheck.subjects.calls import (
    NotChecked,
    Subject,
    dot,
    in_dtype,
    norm,
    one_line,
    random_direction,
    root_mean_square,
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
            finding = _one_input(ctx, reference, place, upstream, g, values)
            if finding.verdict is not Verdict.PASSED or place not in findings:
                findings[place] = finding
    return [findings[place] for place in sorted(findings)]


def _one_input(
    ctx: Context, reference: Subject, place: int, upstream: list[Tensor], g: Tensor, values: ReferenceValues
) -> Finding:
    """Both products for the gradient ``g`` of one input, along one random direction."""
    i, name, dtype = ctx.checked[place], ctx.name(place), None if ctx.why_not_float64 else torch.float64
    x = reference.inputs[i].detach().double()
    u = random_direction(x, ctx.generator)
    try:
        forward, backward = dot(upstream, _jvp(reference, i, x, u)), dot([u], [g])
    except Exception as error:  # not every operation has a forward-mode formula, and a Function seldom has
        if NotChecked.of(error):
            raise
        return not_applicable(f"the reference has no forward-mode derivative ({one_line(error, 120)})", name)

    def change() -> float:
        given = [v.to(dtype or v.dtype) for v in upstream]
        drawn = perturbed_vjp(ctx.subject, given, ctx.subject.inputs, ctx.generator, dtype)
        # Not by a dispatch mode as well: PyTorch can crash where forward mode runs under one.
        again = _jvp(reference, i, perturbed(x, ctx.generator), perturbed(u, ctx.generator))
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


def _jvp(reference: Subject, i: int, x: Tensor, u: Tensor) -> list[Tensor]:
    """``∂outputs/∂(input i) u`` at ``x``; not by ``torch.func.jvp``, whose decompositions import PyTorch's compiler."""
    fixed = in_dtype(reference.inputs, torch.float64)
    with warnings.catch_warnings(), torch.enable_grad(), forward_ad.dual_level():
        warnings.simplefilter("ignore")  # that forward mode is slow for some operation is no news here
        result = reference(*fixed[:i], forward_ad.make_dual(x, u), *fixed[i + 1 :])
        outputs = [forward_ad.unpack_dual(y) for y in floating_outputs(result, "reference")]
    return [torch.zeros_like(y.primal) if y.tangent is None else y.tangent for y in outputs]
