"""Every backward is linear in the upstream gradient, whatever it computes, and blind to memory layout.

Multiplying by a power of two rounds nothing, so ``g(2v) = 2 g(v)`` holds to the last bit. Layouts may choose another
order of sums; there rounding is measured (``Context.allowances``), where two results are not already the same.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.context import SCATTER_FACTOR, Context
from lean_mnist.crosscheck.diagnosis import Kind, diagnose
from lean_mnist.crosscheck.perturbation import DRAWS, perturbed_inputs
from lean_mnist.crosscheck.report import Finding, Severity, failed, not_applicable, passed
from lean_mnist.crosscheck.rules import noting_failed_calls, other_gradients, rule
from lean_mnist.crosscheck.subjects.arguments import as_complex, as_real, is_dense
from lean_mnist.crosscheck.subjects.calls import CallFailed, Subject, Upstream
from lean_mnist.crosscheck.subjects.numbers import norm, same_bits

# Far up, by way of a usual loss scale, where clipping still looks like clipping; and down. Half's range is soon left.
FACTORS = (-1.0, 2.0**16, 2.0**30, 2.0**-30, 2.0**-24)
HALF_FACTORS = (-1.0, 2.0**-6)
HEADROOM = 2.0**-20  # of the range of numbers; results below this share of it leave a backward room on the way


@rule("upstream gradient", order=40, fast=True, part=True)
def upstream_values(ctx: Context) -> list[Finding]:
    """Zero gives exactly zero; ones and Gaussian numbers, doubled, negated, and scaled far up and down, do so to it.

    Far down (``2⁻³⁰``, about 1e-9) is where gradients are late in training, or without a loss scale: there a threshold,
    a shortcut for "zero" or an added ``eps`` shows. Far up is where a loss scale puts them.
    """
    findings: list[Finding] = []
    factors = HALF_FACTORS if torch.float16 in ctx.dtypes else FACTORS
    ones = [torch.ones_like(y) for y in ctx.outputs]
    with noting_failed_calls(findings, "with an upstream gradient of zeros"):
        for place, g in enumerate(ctx.subject.vjp([torch.zeros_like(y) for y in ctx.outputs])):
            if bool((g != 0).any()):
                diagnosis = diagnose(g, torch.zeros_like(g))
                return [failed("zeros give a gradient that is not zero", ctx.name(place), diagnosis)]
    for kind, upstream, scales in (("ones", ones, (2.0,)), ("Gaussian numbers", ctx.gaussian(), factors)):
        with noting_failed_calls(findings, f"with an upstream gradient of {kind}"):
            single = ctx.subject.vjp(upstream)
            for factor in scales:
                with noting_failed_calls(findings, f"with {kind} times {factor:g}"):
                    scaled = ctx.subject.vjp([v * factor for v in upstream])
                    findings += _not_scaled(ctx, upstream, single, scaled, factor, f"{kind} times {factor:g}")
    return findings[:1] or [passed("linear for zeros, ones and Gaussian numbers, tiny and huge")]


def _not_scaled(
    ctx: Context, upstream: Upstream, single: list[Tensor], scaled: list[Tensor], factor: float, words: str
) -> list[Finding]:
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
        if difference <= ctx.floor(g) + underflow:
            continue
        # Elsewhere than on the CPU sums may be in another order every time.
        if g.device.type != "cpu" and difference <= ctx.allowances(upstream, single)[place]:
            continue
        diagnosis = diagnose(back.to(g.dtype), g)
        if norm(many.double() - g.double()) <= 1e-3 * norm(g):
            text = "the gradient is the same whatever the upstream gradient's size"
            diagnosis = replace(diagnosis, kind=Kind.UPSTREAM_IGNORED, text=text)
        return [failed(f"{words} do not give {factor:g} times", ctx.name(place), diagnosis)]
    return []


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


@rule("upstream layout", order=50, varies=True, points_to=Kind.LAYOUT, part=True)
def upstream_layouts(ctx: Context) -> list[Finding]:
    """The same upstream gradient, expanded, transposed, or inside a larger tensor, gives the same gradients."""
    outputs = [k for k, y in enumerate(ctx.outputs) if ctx.differentiable[k] and y.numel() > 1]
    if not outputs:
        return [not_applicable("no output of more than one number")]
    findings: list[Finding] = []
    for k in outputs:
        base, of_base = ctx.probe()
        for words, laid_out in _layouts(base[k], expanded=True):
            given = [laid_out.contiguous() if j == k else v for j, v in enumerate(base)]
            expected = of_base if same_bits(given[k], base[k]) else ctx.subject.vjp(given)
            as_given = [laid_out if j == k else v for j, v in enumerate(base)]
            with noting_failed_calls(findings, f"with one {words}", severity=Severity.WARNING):
                found = ctx.subject.call().gradients(ctx.checked, as_given, copy=False)
                findings += map(_of_layout, other_gradients(ctx, words, found, expected, as_given))
    return findings or [passed("expanded, transposed and embedded ones give the same gradients")]


def _of_layout(finding: Finding) -> Finding:
    assert finding.diagnosis is not None
    text = f"right for a contiguous one; here {finding.diagnosis.text}"
    return replace(finding, diagnosis=replace(finding.diagnosis, kind=Kind.LAYOUT, text=text))


@rule("undefined upstream", order=60, part=True)
def undefined_upstream(ctx: Context) -> list[Finding]:
    """An undefined upstream gradient means zero: for all outputs but the one that is used, and for all of them."""
    used = [k for k, differentiable in enumerate(ctx.differentiable) if differentiable]
    findings: list[Finding] = []
    with noting_failed_calls(findings, "where no upstream gradient is defined", severity=Severity.WARNING):
        evaluated = ctx.subject.call()
        blocked = {k: _Blocked.apply(y) if k in used else y for k, y in enumerate(evaluated.outputs)}
        evaluated = replace(evaluated, outputs=list(blocked.values()))
        for place, g in enumerate(evaluated.gradients(ctx.checked, ctx.gaussian())):
            if bool((g != 0).any()):
                findings.append(failed("with none defined it is not zero", ctx.name(place)))
    for k in used if len(used) > 1 else ():
        upstream = ctx.gaussian()
        zeros = [v if j == k else torch.zeros_like(v) for j, v in enumerate(upstream)]
        with noting_failed_calls(findings, f"where only output {k} is used"):
            expected = ctx.subject.vjp(zeros)
            found = ctx.subject.vjp([v if j == k else None for j, v in enumerate(upstream)])
            words = f"only output {k} used: other gradients than with zeros for the others"
            findings += other_gradients(ctx, words, found, expected, zeros)
    return findings or [passed("undefined ones are zeros")]


class _Blocked(torch.autograd.Function):
    """Its input, without a gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> None:
        return None


def _input_layouts(subject: Subject, i: int, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Those of input ``i``; of a complex one the layouts of its complex numbers, not of their parts."""
    if subject.arguments is None or i not in subject.arguments.complex:
        return _layouts(x, expanded=False)
    return ((words, as_real(laid_out)) for words, laid_out in _layouts(as_complex(x), expanded=False))


@rule("input layout", order=70, varies=True, points_to=Kind.LAYOUT, part=True)
def input_layouts(ctx: Context) -> list[Finding]:
    """The same inputs, transposed in memory or inside a larger tensor, give the same outputs and gradients."""
    findings: list[Finding] = []
    remark = ""
    upstream, expected = ctx.probe()
    for i in ctx.subject.given:
        x = ctx.subject.inputs[i]
        if not is_dense(x):
            continue
        for layout, laid_out in _input_layouts(ctx.subject, i, x.detach()):
            copies = [y.detach().clone() if isinstance(y, Tensor) else y for y in ctx.subject.inputs]
            try:
                evaluated = ctx.subject.call([*copies[:i], laid_out, *copies[i + 1 :]], copy=False)
            except CallFailed as failure:
                remark = f"refuses one that is {layout} (its {failure})"
                continue
            words = f"{ctx.names[i]} {layout}"
            with noting_failed_calls(findings, f"{layout}:", ctx.names[i], Severity.WARNING):
                gradients = evaluated.gradients(ctx.checked, upstream)
                found = _other_outputs(ctx, words, [y.detach() for y in evaluated.outputs])
                if found and ctx.subject.seed is not None:  # numbers drawn in the order of memory are others
                    remark = f"draws other random numbers for one that is {layout}, which is not compared"
                    continue
                found += other_gradients(ctx, words, gradients, expected, upstream)
                findings += map(_of_layout, found)
    return findings or [passed(remark or "transposed and embedded inputs give the same")]


def _other_outputs(ctx: Context, words: str, outputs: Sequence[Tensor]) -> list[Finding]:
    findings = []
    for k, (found, expected) in enumerate(zip(outputs, ctx.outputs, strict=True)):
        equal = (found == expected) | (found.isnan() & expected.isnan())

        def difference(y: Tensor, equal: Tensor = equal, expected: Tensor = expected) -> float:
            return norm(torch.where(equal, 0, y.detach() - expected))

        allowed = ctx.floor(torch.where(expected.isfinite(), expected, 0))
        if not difference(found) <= allowed:
            drawn = [ctx.subject.call(perturbed_inputs(ctx.subject, ctx.generator)).outputs[k] for _ in range(DRAWS)]
            allowed += SCATTER_FACTOR * max((0.0, *filter(math.isfinite, map(difference, drawn))))
        if not difference(found) <= allowed:
            findings.append(failed(words, f"output {k}", diagnose(found, expected)))
    return findings
