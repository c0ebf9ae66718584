"""What every backward owes whatever it computes: to be linear in the upstream gradient, and blind to memory layout.

These rules need no reference. Multiplying by a power of two rounds nothing, so ``g(2v) = 2 g(v)`` and ``g(−v) = −g(v)``
hold to the last bit for any backward that is linear in ``v``; one that takes a special way for ones or zeros, clips, or
forgets ``v``, is found without a tolerance to speak of. Layouts may choose another order of sums; there rounding is
measured (``Context.allowances``), and only where two results are not already the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lean_mnist.crosscheck.calls import CallFailed, Upstream, norm
from lean_mnist.crosscheck.context import FLOOR_ULPS, Context
from lean_mnist.crosscheck.diagnosis import Diagnosis, Kind, diagnose
from lean_mnist.crosscheck.numerics.perturbation import rounded_anew
from lean_mnist.crosscheck.report import Finding, failed, not_applicable, passed

UPSTREAM = "upstream gradient"
UPSTREAM_LAYOUT = "upstream layout"
UNDEFINED = "undefined upstream"
INPUT_LAYOUT = "input layout"
FACTORS = (2.0, -1.0, 2.0**30, 2.0**-30)
HALF_FACTORS = (2.0, -1.0, 2.0**-6)
HEADROOM = 2.0**-20  # of the range of numbers; results below this share of it leave a backward room on the way


def upstream_values(ctx: Context) -> list[Finding]:
    """Zero gives exactly zero; ones and Gaussian numbers, doubled, negated, and scaled far up and down, do so to it.

    Far down (``2⁻³⁰``, about 1e-9) is where gradients are late in training, or without a loss scale: there a threshold,
    a shortcut for "zero" or an added ``eps`` shows. Far up is where a loss scale puts them.
    """
    zeros = [torch.zeros_like(y) for y in ctx.outputs]
    try:
        at_zero = ctx.gradients(zeros)
    except CallFailed as failure:
        return [failed(UPSTREAM, f"with an upstream gradient of zeros its {failure}")]
    for place, g in enumerate(at_zero):
        if bool((g != 0).any()):
            diagnosis = diagnose(g, torch.zeros_like(g))
            return [failed(UPSTREAM, "zeros give a gradient that is not zero", ctx.name(place), diagnosis)]
    half = any(dtype == torch.float16 for dtype in ctx.dtypes)  # whose range is soon left
    kinds = (("ones", [torch.ones_like(y) for y in ctx.outputs]), ("Gaussian numbers", ctx.gaussian()))
    for words, upstream in kinds:
        try:
            single = ctx.gradients(upstream)
        except CallFailed as failure:
            return [failed(UPSTREAM, f"with an upstream gradient of {words} its {failure}")]
        for factor in HALF_FACTORS if half else FACTORS:
            try:
                scaled = ctx.gradients([None if v is None else v * factor for v in upstream])
            except CallFailed as failure:
                return [failed(UPSTREAM, f"with {words} times {factor:g} its {failure}")]
            found = _not_scaled(ctx, upstream, single, scaled, factor, words)
            if found is not None:
                return [found]
    return [passed(UPSTREAM, "linear for zeros, ones and Gaussian numbers, tiny and huge")]


def _not_scaled(
    ctx: Context, upstream: Upstream, single: list[Tensor], scaled: list[Tensor], factor: float, words: str
) -> Finding | None:
    for place, (g, many) in enumerate(zip(single, scaled, strict=True)):
        if not g.numel():
            continue
        back, limits = many.double() / factor, torch.finfo(g.dtype)
        largest = float(g.double().abs().max()) * max(abs(factor), 1.0)
        if not bool(back.isfinite().all()) and not largest < limits.max * HEADROOM:
            continue  # out of range
        difference = norm(back - g.double())
        # A number that falls below the normal ones on the way is off by at most the smallest of these.
        underflow = limits.tiny * max(1.0, 1 / abs(factor)) * math.sqrt(g.numel())
        if difference <= FLOOR_ULPS * ctx.unit * norm(g) + underflow:
            continue
        # Elsewhere than on the CPU sums may be in another order every time.
        if g.device.type != "cpu" and difference <= ctx.allowances(upstream, single)[place]:
            continue
        diagnosis = diagnose(back.to(g.dtype), g)
        if norm(many.double() - g.double()) <= 1e-3 * norm(g):
            text = "the gradient is the same whatever the upstream gradient's size"
            diagnosis = replace(diagnosis, kind=Kind.UPSTREAM_IGNORED, text=text)
        return failed(UPSTREAM, f"{words} times {factor:g} do not give {factor:g} times", ctx.name(place), diagnosis)
    return None


def _layouts(x: Tensor, expanded: bool) -> Iterator[tuple[str, Tensor]]:
    """The same numbers as ``x`` (or others, where they are expanded) in the layouts that programs bring about."""
    if x.dim() == 0 or x.numel() < 2:
        return
    if expanded:
        yield "expanded, as from .sum()", x.flatten()[0].expand(x.shape)
        yield "expanded along rows", x[:1].expand(x.shape)
    if x.dim() > 1:
        yield "transposed in memory", x.transpose(0, -1).contiguous().transpose(0, -1)
    yield "every other column of a larger tensor", torch.stack([x, torch.zeros_like(x)], -1)[..., 0]
    yield "columns of a larger tensor, as after torch.cat", torch.cat([torch.zeros_like(x), x], -1)[..., x.shape[-1] :]
    yield "rows of a larger tensor, as after torch.cat", torch.cat([torch.zeros_like(x), x], 0)[x.shape[0] :]


def upstream_layouts(ctx: Context) -> list[Finding]:
    """The same upstream gradient, expanded, transposed, or inside a larger tensor, gives the same gradients."""
    outputs = [k for k, y in enumerate(ctx.outputs) if ctx.differentiable[k] and y.numel() > 1]
    if not outputs:
        return [not_applicable(UPSTREAM_LAYOUT, "no output of more than one number")]
    findings: list[Finding] = []
    for k in outputs:
        base = ctx.gaussian()
        v = base[k]
        assert v is not None
        for words, laid_out in _layouts(v, expanded=True):
            expected = ctx.gradients([laid_out.contiguous() if j == k else w for j, w in enumerate(base)])
            as_given = [laid_out if j == k else w for j, w in enumerate(base)]
            try:
                found = ctx.subject.call().vjp(ctx.checked, as_given)
            except CallFailed as failure:
                findings.append(failed(UPSTREAM_LAYOUT, f"with one {words} its {failure}"))
                continue
            findings += _compare(ctx, UPSTREAM_LAYOUT, words, _filled(found, expected), expected, as_given)
    return findings or [passed(UPSTREAM_LAYOUT, "expanded, transposed and embedded ones give the same gradients")]


def _filled(found: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(e) if g is None else g.detach() for g, e in zip(found, like, strict=True)]


def _compare(
    ctx: Context, rule: str, words: str, found: list[Tensor], expected: list[Tensor], upstream: Upstream
) -> list[Finding]:
    places = different(ctx, found, expected, upstream)
    return [failed(rule, words, ctx.name(place), _layout_diagnosis(found[place], expected[place])) for place in places]


def _layout_diagnosis(found: Tensor, expected: Tensor) -> Diagnosis:
    diagnosis = diagnose(found, expected)
    return replace(diagnosis, kind=Kind.LAYOUT, text=f"right for a contiguous one; here {diagnosis.text}")


def different(ctx: Context, found: Sequence[Tensor], expected: Sequence[Tensor], upstream: Upstream) -> list[int]:
    """The places where two sets of gradients for ``upstream`` differ by more than rounding explains."""
    differences = [norm(a.double() - b.double()) for a, b in zip(found, expected, strict=True)]
    suspects = [
        place
        for place, d in enumerate(differences)
        if not d <= FLOOR_ULPS * ctx.unit * norm(expected[place]) + torch.finfo(expected[place].dtype).tiny
    ]
    if not suspects:
        return []
    contiguous = [None if v is None else v.contiguous() for v in upstream]
    allowed = ctx.allowances(contiguous, expected)
    return [place for place in suspects if not differences[place] <= allowed[place]]


def undefined_upstream(ctx: Context) -> list[Finding]:
    """Where only one of several outputs is used, the others' upstream gradients are undefined, which means zero."""
    used = [k for k, differentiable in enumerate(ctx.differentiable) if differentiable]
    if len(used) < 2:
        return [not_applicable(UNDEFINED, "one output only")]
    findings: list[Finding] = []
    for k in used:
        upstream = ctx.gaussian()
        alone = [v if j == k else None for j, v in enumerate(upstream)]
        zeros = [v if j == k or v is None else torch.zeros_like(v) for j, v in enumerate(upstream)]
        try:
            expected, found = ctx.gradients(zeros), ctx.gradients(alone)
        except CallFailed as failure:
            findings.append(failed(UNDEFINED, f"where only output {k} is used its {failure}"))
            continue
        for place in different(ctx, found, expected, zeros):
            diagnosis = diagnose(found[place], expected[place])
            words = f"only output {k} used: other gradients than with zeros for the others"
            findings.append(failed(UNDEFINED, words, ctx.name(place), diagnosis))
    return findings or [passed(UNDEFINED, "each output used alone gives what zeros for the others give")]


def input_layouts(ctx: Context) -> list[Finding]:
    """The same inputs, transposed in memory or inside a larger tensor, give the same outputs and gradients."""
    findings: list[Finding] = []
    refused = ""
    upstream = ctx.gaussian()
    expected = ctx.gradients(upstream)
    for i, x in enumerate(ctx.subject.inputs):
        if not isinstance(x, Tensor):
            continue
        for words, laid_out in _layouts(x.detach(), expanded=False):
            inputs = [laid_out if j == i else _fresh(y) for j, y in enumerate(ctx.subject.inputs)]
            try:
                evaluated = ctx.subject.call(inputs, copy=False)
            except CallFailed as failure:
                refused = f"refuses one that is {words} (its {failure})"
                continue
            try:
                gradients = _filled(evaluated.vjp(ctx.checked, [_clone(v) for v in upstream]), expected)
            except CallFailed as failure:
                findings.append(failed(INPUT_LAYOUT, f"{words}: its {failure}", ctx.names[i]))
                continue
            outputs = [y.detach() for y in evaluated.outputs]
            findings += _outputs_differ(ctx, f"{ctx.names[i]} {words}", outputs)
            findings += _compare(ctx, INPUT_LAYOUT, f"{ctx.names[i]} {words}", gradients, expected, upstream)
    return findings or [passed(INPUT_LAYOUT, refused or "transposed and embedded inputs give the same")]


def _clone(v: Tensor | None) -> Tensor | None:
    return None if v is None else v.clone()


def _fresh(y: object) -> object:
    return y.detach().clone() if isinstance(y, Tensor) else y


def _outputs_differ(ctx: Context, words: str, outputs: Sequence[Tensor]) -> list[Finding]:
    moved: Callable[[], list[Tensor]] = lambda: ctx.subject.call(rounded_anew(ctx.subject, ctx.generator)).outputs  # noqa: E731
    findings = []
    for k, (found, expected) in enumerate(zip(outputs, ctx.outputs, strict=True)):
        equal = (found == expected) | (found.isnan() & expected.isnan())
        if bool(equal.all()):
            continue
        difference = norm(torch.where(equal, 0, found - expected))
        finite = torch.where(expected.isfinite(), expected, 0)
        allowed = FLOOR_ULPS * ctx.unit * norm(finite)
        if difference > allowed:
            allowed += 10 * max(norm(torch.where(equal, 0, moved()[k].detach() - expected)) for _ in range(3))
        if not difference <= allowed:
            findings.append(failed(INPUT_LAYOUT, words, f"output {k}", _layout_diagnosis(found, expected)))
    return findings
