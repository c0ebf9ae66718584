"""``⟨J u, v⟩ = ⟨u, Jᵀ v⟩``, with ``J u`` by forward-mode AD of the reference and ``Jᵀ v`` by the function's backward.

Other formulas than reverse mode, no step size, nothing but round-off (Griewank and Walther, *Evaluating Derivatives*,
2nd ed., section 3.3). Its tolerance is six standard deviations of ``⟨u, e⟩`` for Gaussian ``u``, with ``‖e‖`` the error
that the comparison with the reference allows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from lean_mnist.crosscheck.calls import (
    Subject,
    dot,
    floating_outputs,
    in_dtype,
    norm,
    one_line,
    random_direction,
    root_mean_square,
)
from lean_mnist.crosscheck.context import SCATTER_FACTOR, Context
from lean_mnist.crosscheck.numerics.kinks import at_a_kink
from lean_mnist.crosscheck.numerics.reference_outputs import reference_gradients
from lean_mnist.crosscheck.perturbation import DRAWS, perturbed, perturbed_vjp
from lean_mnist.crosscheck.report import Finding, Verdict, failed, kink, not_applicable, passed
from lean_mnist.crosscheck.rules import rule

STANDARD_DEVIATIONS = 6.0


@rule("JVP-VJP product", order=20)
def forward_mode(ctx: Context) -> list[Finding]:
    """``⟨J u, v⟩ = ⟨u, Jᵀ v⟩`` for random ``u`` and ``v``, one input at a time."""
    if ctx.reference is None:
        return [not_applicable("no reference")]
    dtype = torch.float64 if not ctx.why_not_float64 else None
    findings: dict[int, Finding] = {}
    for _ in range(ctx.probes):
        upstream = ctx.gaussian()
        gradients = ctx.subject.vjp(upstream, dtype=dtype)
        values = reference_gradients(ctx.reference, upstream, ctx.generator, dtype)
        for place, g in enumerate(gradients):
            if place in findings and findings[place].verdict is Verdict.FAILED:
                continue
            i, name = ctx.checked[place], ctx.name(place)
            x = ctx.reference.inputs[i].detach().double()
            u = random_direction(x, ctx.generator)
            try:
                forward = dot(upstream, _jvp(ctx.reference, i, x, u))
            except Exception as error:  # not every operation has a forward-mode formula, and a Function seldom has
                return [not_applicable(f"the reference has no forward-mode derivative ({one_line(error, 120)})")]
            backward = dot([u], [g])
            difference, scale = abs(forward - backward), STANDARD_DEVIATIONS * root_mean_square(x)
            tolerance = scale * values.allowed_norm(place, values.compare(place, name, g))
            if not difference <= tolerance:
                tolerance = scale * values.allowed_norm(place, values.recheck(place, name, g))
            if tolerance < difference < math.inf:
                scatter = _scatter(ctx, ctx.reference, place, upstream, dtype, x, u, (forward, backward))
                tolerance += SCATTER_FACTOR * scatter
            text = f"⟨Ju, v⟩ = {forward:.9g}, ⟨u, Jᵀv⟩ = {backward:.9g} (rounding explains {tolerance:.2e})"
            if difference <= tolerance:
                findings.setdefault(place, passed(text, name))
            elif place in ctx.kinks or at_a_kink(ctx, place, upstream, norm(g.double() - values.exact[place])):
                findings[place] = kink(text, name)
            else:
                findings[place] = failed(text, name)
    return [findings[place] for place in sorted(findings)]


def _scatter(
    ctx: Context,
    reference: Subject,
    place: int,
    upstream: Sequence[Tensor],
    dtype: torch.dtype | None,
    x: Tensor,
    u: Tensor,
    products: tuple[float, float],
) -> float:
    """The largest change of either product under ulp perturbations: float64 rounds too, and more may cancel."""
    given, largest = [v.to(dtype or v.dtype) for v in upstream], 0.0
    for _ in range(DRAWS):
        drawn = perturbed_vjp(ctx.subject, given, ctx.subject.inputs, ctx.generator, dtype)
        # Not by a dispatch mode as well: PyTorch can crash where forward mode runs under one.
        near, along = perturbed(x, ctx.generator), perturbed(u, ctx.generator)
        again = dot(upstream, _jvp(reference, ctx.checked[place], near, along)), dot([u], [drawn[place]])
        largest = max(largest, *(abs(a - b) for a, b in zip(again, products, strict=True)))
    return largest


def _jvp(reference: Subject, i: int, x: Tensor, u: Tensor) -> list[Tensor]:
    fixed = in_dtype(reference.inputs, torch.float64)

    def outputs(moving: Tensor) -> tuple[Tensor, ...]:
        return tuple(floating_outputs(reference(*fixed[:i], moving, *fixed[i + 1 :]), "reference"))

    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # that forward mode is slow for some operation is no news here
        return list(torch.func.jvp(outputs, (x,), (u,))[1])
