"""Rules of what transforms and compilers call beside forward and backward: ``jvp``, ``vmap``, operators."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lean_mnist.crosscheck.comparison import FLOOR_ULPS
from lean_mnist.crosscheck.context import SCATTER_FACTOR, Context
from lean_mnist.crosscheck.diagnosis import diagnose
from lean_mnist.crosscheck.perturbation import perturbed_vjp, scatter
from lean_mnist.crosscheck.report import Finding, Severity, failed, not_applicable, passed
from lean_mnist.crosscheck.rules import rule
from lean_mnist.crosscheck.rules.reference_gradients import tangents
from lean_mnist.crosscheck.subjects.arguments import floating_outputs
from lean_mnist.crosscheck.subjects.calls import CallFailed, one_line
from lean_mnist.crosscheck.subjects.numbers import dot, in_dtype, norm, normal, random_direction
from lean_mnist.torch_internals import operator_of

EXAMPLES = 3
COMPILED = "test_aot_dispatch_dynamic"  # outputs and gradients, compiled, against eager ones
BATCHED_ULPS = 1e3  # another order of sums, in units of rounding of the result


def _defines(ctx: Context, method: str) -> bool:
    """True if some Function in the subject's graph has ``method``."""
    own = any(getattr(f, method) is not getattr(Function, method) for f in ctx.functions)
    return own or (method == "vmap" and any(f.generate_vmap_rule for f in ctx.functions))


@rule("jvp", order=112, part=True)
def jvp(ctx: Context) -> list[Finding]:
    """``⟨J u, v⟩`` by the Function's own ``jvp`` is ``⟨u, Jᵀ v⟩`` by its backward, for each input alone and for all."""
    if not _defines(ctx, "jvp"):
        return [not_applicable("no Function here defines one")]
    dtype = None if ctx.why_not_float64 else torch.float64
    unit = ctx.unit if dtype is None else torch.finfo(dtype).eps / 2
    inputs = in_dtype(ctx.subject.inputs, dtype)
    points = [inputs[i] for i in ctx.checked]
    directions = [random_direction(x, ctx.generator).to(x.dtype) for x in points]
    upstream = [v.to(dtype or v.dtype) for v in ctx.gaussian()]
    gradients = ctx.subject.vjp(upstream, dtype=dtype)
    every = range(len(points))
    findings = []
    for places in [[place] for place in every] + [list(every)] * (len(points) > 1):
        moving = {ctx.checked[place]: directions[place] for place in places}
        name = ", ".join(ctx.name(place) for place in places)
        try:
            along_all = tangents(ctx.subject, inputs, moving)
        except Exception as error:  # whatever the Function's jvp raises
            findings.append(
                failed(f"raised {type(error).__name__}: {one_line(error)}", name, severity=Severity.WARNING)
            )
            continue
        along = [directions[place] for place in places]
        forward, backward = dot(upstream, along_all), dot(along, [gradients[place] for place in places])
        size = sum(norm(u) * norm(gradients[place]) for u, place in zip(along, places, strict=True))
        allowed = (FLOOR_ULPS * unit + ctx.options.tolerance) * size

        def change(
            along: Sequence[Tensor] = along, places: Sequence[int] = places, backward: float = backward
        ) -> float:
            drawn = perturbed_vjp(ctx.subject, upstream, inputs, ctx.generator, dtype)
            return abs(dot(along, [drawn[place] for place in places]) - backward)

        if not abs(forward - backward) <= allowed:
            allowed += SCATTER_FACTOR * scatter(change)
        if not abs(forward - backward) <= allowed and not set(places) & ctx.kinks:
            findings.append(failed(f"⟨Ju, v⟩ = {forward:.9g} by it, ⟨u, Jᵀv⟩ = {backward:.9g} by the backward", name))
    return findings or [passed("agrees with the backward")]


@rule("vmap", order=114, part=True)
def vmap(ctx: Context) -> list[Finding]:
    """``torch.func.vmap`` gives the outputs and gradients of a loop, whatever dimension of whichever input it maps."""
    if ctx.subject.seed is not None or ctx.subject.clones or not _defines(ctx, "vmap"):
        return [not_applicable("no Function here defines one that can be compared")]
    dtype = None if ctx.why_not_float64 else torch.float64
    own = in_dtype(ctx.subject.inputs, dtype)
    examples = [own] + [ctx.subject.at(own).moved(ctx.generator, 0.1) for _ in range(EXAMPLES - 1)]
    upstreams = [[normal(y.shape, ctx.generator, y.device) for y in ctx.outputs] for _ in examples]
    findings, compared = [], False
    for words, dims in _mappings(ctx, own):
        single = [[x if i in dims else own[i] for i, x in enumerate(inputs)] for inputs in examples]
        try:
            calls = [ctx.subject.call(inputs) for inputs in single]
            outputs = [[y.detach() for y in call.outputs] for call in calls]
            expected = [call.gradients(list(dims), vs) for call, vs in zip(calls, upstreams, strict=True)]
        except CallFailed:
            continue
        compared = True
        mapped = {i: torch.stack([inputs[i] for inputs in single], dim).requires_grad_() for i, dim in dims.items()}
        try:
            found = _mapped(ctx, [mapped.get(i, x) for i, x in enumerate(own)], dims)
            roots = [(y, torch.stack(vs)) for y, *vs in zip(found, *upstreams, strict=True) if y.requires_grad]
            weights = [v.to(y.dtype) for y, v in roots]
            gradients = torch.autograd.grad([y for y, _ in roots], list(mapped.values()), weights, allow_unused=True)
        except Exception as error:  # whatever the Function's vmap raises
            text = f"{words} it raised {type(error).__name__}: {one_line(error)}"
            findings.append(failed(text, severity=Severity.WARNING))
            continue
        pairs = [
            (f"output {k}", y.detach(), torch.stack(ys)) for k, (y, *ys) in enumerate(zip(found, *outputs, strict=True))
        ]
        for (i, dim), g, *gs in zip(dims.items(), gradients, *expected, strict=True):
            pairs.append((ctx.names[i], torch.zeros_like(mapped[i]) if g is None else g, torch.stack(gs, dim)))
        for name, ours, right in pairs:
            unit = torch.finfo(right.dtype).eps / 2
            if not norm(ours - right) <= (BATCHED_ULPS * unit + ctx.options.tolerance) * norm(right):
                findings.append(failed(f"another than a loop gives {words}", name, diagnose(ours, right)))
    return findings or [passed("gives what a loop gives") if compared else not_applicable("it raises at other inputs")]


def _mappings(ctx: Context, inputs: Sequence[Any]) -> list[tuple[str, dict[int, int]]]:
    """Mapped dimensions by input, in words too: the first of all, the last of one among these, one alone."""
    first, every = ctx.checked[0], dict.fromkeys(ctx.checked, 0)
    mappings = [("where dimension 0 is mapped", every)]
    mappings += [(f"where the last dimension of {ctx.names[first]} is mapped", {**every, first: inputs[first].dim()})]
    if len(ctx.checked) > 1:
        mappings += [(f"where {ctx.names[i]} alone is mapped", {i: 0}) for i in ctx.checked]
    return mappings


def _mapped(ctx: Context, inputs: Sequence[Any], dims: dict[int, int]) -> list[Tensor]:
    def outputs(*flat: Any) -> tuple[Tensor, ...]:
        return tuple(floating_outputs(ctx.subject(*flat), "function"))

    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # that some other operation here is slow under it
        return list(torch.func.vmap(outputs, in_dims=tuple(dims.get(i) for i in range(len(inputs))))(*inputs))


@rule("opcheck", order=134, severity=Severity.WARNING, part=True)
def opcheck(ctx: Context) -> list[Finding]:
    """The failures of ``torch.library.opcheck``; one of compiled gradients that no other explains is an error.

    It does not ask whether the gradient is right, only whether the schema, fake kernel and autograd key are registered
    so that ``torch.compile`` and ``torch.export`` compute what eager code computes.
    """
    subject = ctx.subject
    operator = operator_of(subject.function)
    if operator is None:
        return [not_applicable("no operator registered with torch.library")]
    inputs = in_dtype(subject.inputs, None)
    for i in subject.checked:
        inputs[i] = inputs[i].clone().requires_grad_()
    given = inputs if subject.arguments is None else subject.arguments.nested(inputs)
    args, kwargs = ((), given) if isinstance(given, dict) else (tuple(given), {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = torch.library.opcheck(operator, args, kwargs, raise_exception=False)
    wrong = {test: error for test, error in results.items() if error != "SUCCESS"}
    alone = Severity.ERROR if list(wrong) == [COMPILED] else None
    findings = [failed(one_line(error, 200), test, severity=alone) for test, error in wrong.items()]
    return findings or [passed(", ".join(test.removeprefix("test_") for test in results))]
