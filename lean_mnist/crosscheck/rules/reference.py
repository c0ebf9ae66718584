"""The two oracles that know a reference: its float64 gradients, and its forward-mode derivatives.

*Comparison.* ``vᵀ ∂outputs/∂input`` of the function in the precision under test, against reverse-mode autograd of the
reference in float64; how much rounding explains is measured on the reference in that same precision (``comparison``).
With k independent Gaussian ``v``, an error in the derivative of spectral norm σ stays below a tolerance τ in all of
them with probability at most ``(√(2/π) τ/σ)ᵏ``: the component of ``v`` along the error's leading direction is Gaussian.

*JVP–VJP.* ``⟨J u, v⟩ = ⟨u, Jᵀ v⟩`` with ``J u`` by forward-mode AD of the reference and ``Jᵀ v`` by the function's
backward: other formulas than reverse mode, no step size, nothing but round-off (Griewank and Walther, *Evaluating
Derivatives*, 2nd ed., section 3.3). Its tolerance is six standard deviations of ``⟨u, e⟩`` for Gaussian ``u``, with
``‖e‖`` the error that the comparison allows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lean_mnist.crosscheck.calls import (
    Subject,
    Upstream,
    dot,
    norm,
    normal,
    one_line,
    root_mean_square,
    seed_everything,
)
from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.crosscheck.context import SCATTER_CALLS, SCATTER_FACTOR, Context
from lean_mnist.crosscheck.diagnosis import Candidate, Diagnosis, Kind, diagnose
from lean_mnist.crosscheck.numerics.perturbation import jittered_vjp, nudged, rounded_anew
from lean_mnist.crosscheck.numerics.reference_outputs import (
    Answer,
    allowed_norm,
    reference_gradients,
    reference_outputs,
    settled_gradient,
    settled_output,
)
from lean_mnist.crosscheck.report import Finding, Verdict, failed, kink, not_applicable, passed
from lean_mnist.errors import ArgumentError

GRADIENT = "gradient"
OUTPUT = "output"
JVP = "JVP-VJP product"
STANDARD_DEVIATIONS = 6.0
# A kink explains a difference if, within this many units of rounding of the point, the reference's own gradient changes
# by at least this share of it, and at one of this many points a little aside there is no difference.
KINK_UNITS, KINK_SHARE, KINK_POINTS = 16.0, 0.2, 3


@dataclass(frozen=True)
class Comparison:
    """Divergence by output and by checked input (the worst of all probes), and the findings made from them."""

    outputs: tuple[Divergence, ...]
    gradients: tuple[Divergence, ...]
    findings: list[Finding]


def escape_probability(probes: int, times_tolerance: float = 100.0) -> float:
    """At most so probable is it that an error ``times_tolerance`` times what is allowed passes all probes."""
    return (math.sqrt(2 / math.pi) / times_tolerance) ** probes


def compare_with_reference(ctx: Context) -> Comparison:
    """Outputs and gradients of the function beside those of the reference, for ``probes`` upstream gradients."""
    assert ctx.reference is not None
    answer = reference_outputs(ctx.reference, [y.dtype for y in ctx.outputs])
    outputs = tuple(
        settled_output(answer, k, f"output {k}", y, ctx.reference, ctx.generator) for k, y in enumerate(ctx.outputs)
    )
    findings = [
        Finding(OUTPUT, Verdict.PASSED if d.passed else Verdict.FAILED, str(d), f"output {k}",
                None if d.passed else diagnose(ctx.outputs[k], answer.exact[k]))
        for k, d in enumerate(outputs)
    ]  # fmt: skip
    worst: list[_Compared | None] = [None] * len(ctx.checked)
    for _ in range(ctx.probes):
        upstream = ctx.gaussian()
        evaluated = ctx.subject.call()
        found = evaluated.vjp(ctx.checked, [None if v is None else v.clone() for v in upstream])
        answer = reference_gradients(ctx.reference, upstream)
        _refuse_infinite(ctx, answer)
        for place, g in enumerate(found):
            before = worst[place]
            if before is not None and not before.divergence.passed:
                continue  # one probe that fails is enough
            ours = torch.zeros_like(evaluated.leaves[ctx.checked[place]]) if g is None else g.detach()
            name = f"gradient of {ctx.name(place)}"
            divergence = settled_gradient(answer, place, name, ours, ctx.reference, upstream, ctx.generator)
            if before is None or _worse(divergence, before.divergence):
                worst[place] = _Compared(divergence, ours, g is None, answer, upstream)
    compared = [c for c in worst if c is not None]
    assert len(compared) == len(worst)
    findings += [_finding(ctx, place, c) for place, c in enumerate(compared)]
    return Comparison(outputs, tuple(c.divergence for c in compared), findings)


@dataclass(frozen=True)
class _Compared:
    """The gradient of one input for one probe: ours (``none`` if the backward gave ``None``) and the reference's."""

    divergence: Divergence
    ours: Tensor
    none: bool
    answer: Answer
    upstream: Upstream


def _worse(new: Divergence, old: Divergence) -> bool:
    return old.share == old.share and not new.share <= old.share


def _refuse_infinite(ctx: Context, answer: Answer) -> None:
    for place, exact in enumerate(answer.exact):
        if not bool(exact.isfinite().all()):
            raise ArgumentError(
                f"reference: expected a finite gradient of {ctx.name(place)}, found one that is not at these inputs; "
                "choose others"
            )


def _finding(ctx: Context, place: int, compared: _Compared) -> Finding:
    divergence, ours = compared.divergence, compared.ours
    subject, text = ctx.name(place), str(divergence)
    if divergence.passed:
        return Finding(GRADIENT, Verdict.PASSED, text, subject)
    error = norm(ours.double() - compared.answer.exact[place])
    if not compared.none and at_a_kink(ctx, place, compared.upstream, error):
        ctx.kinks.add(place)
        return Finding(GRADIENT, Verdict.KINK, f"{text}; the reference's own gradient jumps within rounding", subject)
    if compared.none:
        text += "; the backward returned None for it"
    return Finding(GRADIENT, Verdict.FAILED, text, subject, _diagnose(ctx, place, compared))


def _diagnose(ctx: Context, place: int, compared: _Compared) -> Diagnosis:
    assert ctx.reference is not None
    exact, given, upstream = compared.answer.exact[place], ctx.subject.inputs[ctx.checked[place]], compared.upstream
    ones = ctx.reference.vjp([None if v is None else torch.ones_like(v) for v in upstream], dtype=torch.float64)
    sizes = [n for x in ctx.subject.inputs if isinstance(x, Tensor) for n in x.shape]
    return diagnose(
        compared.ours,
        exact,
        upstream[0] if len(upstream) == 1 else None,
        tolerance=3 * allowed_norm(compared.divergence, exact) / math.sqrt(max(exact.numel(), 1)),
        candidates=[
            Candidate(Kind.UPSTREAM_IGNORED, "this is the gradient for an upstream gradient of ones", ones[place])
        ],
        terms={ctx.name(place): given},
        sizes=[*sizes, *(x.numel() for x in ctx.subject.inputs if isinstance(x, Tensor))],
    )


def at_a_kink(ctx: Context, place: int, upstream: Upstream, error: float) -> bool:
    """Whether the gradient differs by ``error`` only because the point is within rounding of a kink.

    Two things must hold. The reference's gradient jumps there: within ``KINK_UNITS`` units of rounding it changes by a
    fair share of ``error``. And a little aside the function agrees with the reference.
    """
    if not math.isfinite(error) or not _jumps(ctx, ctx.reference, None, place, upstream, error):
        return False
    for _ in range(KINK_POINTS):
        aside = ctx.subject.moved(ctx.generator, 1e-3)
        assert ctx.reference is not None
        answer = reference_gradients(ctx.reference, upstream, aside)
        ours = ctx.subject.vjp(upstream, aside)[place]
        if answer.compare(place, "", ours).passed:
            return True
        if not _jumps(ctx, ctx.reference, aside, place, upstream, norm(ours.double() - answer.exact[place])):
            return False
    return False


def _jumps(
    ctx: Context, reference: Subject | None, at: Sequence[object] | None, place: int, upstream: Upstream, error: float
) -> bool:
    assert reference is not None
    here = Subject(reference.function, "reference", list(at or reference.inputs), reference.checked, reference.seed)
    around = []
    for _ in range(4):
        inputs = rounded_anew(here, ctx.generator, KINK_UNITS * ctx.unit)
        for i in here.checked:  # a relative step leaves zeros where they are, and zero is where kinks are
            x = inputs[i]
            assert isinstance(x, Tensor)
            step = KINK_UNITS * ctx.unit * root_mean_square(x) * normal(x.shape, ctx.generator, x.device)
            inputs[i] = (x.double() + (x == 0) * step).to(x.dtype)
        around.append(here.vjp(upstream, inputs, dtype=torch.float64)[place])
    middle = here.vjp(upstream, dtype=torch.float64)[place]
    return max(norm(g - middle) for g in around) >= KINK_SHARE * error


def forward_mode(ctx: Context) -> list[Finding]:
    """``⟨J u, v⟩ = ⟨u, Jᵀ v⟩`` for random ``u`` and ``v``, one input at a time."""
    if ctx.reference is None:
        return [not_applicable(JVP, "no reference")]
    dtype = torch.float64 if not ctx.float64 else None
    findings: dict[int, Finding] = {}
    for _ in range(ctx.probes):
        upstream = ctx.gaussian()
        used = [v for v in upstream if v is not None]
        gradients = ctx.subject.vjp(upstream, dtype=dtype)
        answer = reference_gradients(ctx.reference, upstream, dtype=dtype)
        for place, g in enumerate(gradients):
            i, name = ctx.checked[place], ctx.name(place)
            if place in findings and findings[place].verdict is Verdict.FAILED:
                continue
            x = ctx.reference.inputs[i].detach().double()
            u = root_mean_square(x) * normal(x.shape, ctx.generator, x.device)
            try:
                forward = dot(used, _jvp(ctx.reference, i, x, u))
            except Exception as error:  # not every operation has a forward-mode formula, and a Function seldom has
                return [not_applicable(JVP, f"the reference has no forward-mode derivative ({one_line(error, 120)})")]
            backward = dot([u], [g])
            scale = STANDARD_DEVIATIONS * root_mean_square(x)
            tolerance = scale * allowed_norm(answer.compare(place, name, g), answer.exact[place])
            if not abs(forward - backward) <= tolerance:
                divergence = settled_gradient(answer, place, name, g, ctx.reference, upstream, ctx.generator, dtype)
                tolerance = scale * allowed_norm(divergence, answer.exact[place])
            if tolerance < abs(forward - backward) < math.inf:
                tolerance += SCATTER_FACTOR * _scatter(ctx, place, used, dtype, x, u, (forward, backward))
            text = f"⟨Ju, v⟩ = {forward:.9g}, ⟨u, Jᵀv⟩ = {backward:.9g} (rounding explains {tolerance:.2e})"
            if abs(forward - backward) <= tolerance:
                findings.setdefault(place, passed(JVP, text, name))
            elif place in ctx.kinks or at_a_kink(ctx, place, upstream, norm(g.double() - answer.exact[place])):
                findings[place] = kink(JVP, text, name)
            else:
                findings[place] = failed(JVP, text, name)
    return [findings[place] for place in sorted(findings)]


def _scatter(
    ctx: Context,
    place: int,
    upstream: list[Tensor],
    dtype: torch.dtype | None,
    x: Tensor,
    u: Tensor,
    products: tuple[float, float],
) -> float:
    """How far either product scatters when every rounding is drawn anew: float64 rounds too, and more may cancel."""
    assert ctx.reference is not None
    given, largest = [v.to(dtype or v.dtype) for v in upstream], 0.0
    for _ in range(SCATTER_CALLS):
        moved = jittered_vjp(ctx.subject, given, ctx.subject.inputs, ctx.generator, dtype)
        # Not by a dispatch mode as well: PyTorch can crash where forward mode runs under one.
        near, along = nudged(x, ctx.generator), nudged(u, ctx.generator)
        tangents = _jvp(ctx.reference, ctx.checked[place], near, along)
        again = dot(upstream, tangents), dot([u], [moved[place]])
        largest = max(largest, *(abs(a - b) for a, b in zip(again, products, strict=True)))
    return largest


def _jvp(reference: Subject, i: int, x: Tensor, u: Tensor) -> list[Tensor]:
    fixed = [y.detach().double() if isinstance(y, Tensor) and y.is_floating_point() else y for y in reference.inputs]

    def outputs(moving: Tensor) -> tuple[Tensor, ...]:
        if reference.seed is not None:
            seed_everything(reference.seed)
        result = reference.function(*fixed[:i], moving, *fixed[i + 1 :])
        every = [result] if isinstance(result, Tensor) else list(result)
        return tuple(y for y in every if isinstance(y, Tensor) and y.is_floating_point())

    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # that forward mode is slow for some operation is no news here
        tangents = torch.func.jvp(outputs, (x,), (u,))[1]
    return list(tangents)
