"""Checks at other inputs: other sizes, and exact zeros, ties and large numbers.

Other sizes show remainders of tiles that are treated otherwise; special values forgotten branches, 0/0 and ∞/∞.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.numerics.differences import STANDARD_DEVIATIONS
from lean_mnist.crosscheck.numerics.reference_outputs import reference_gradients
from lean_mnist.crosscheck.report import Finding, Severity, Verdict, failed, not_applicable, passed
from lean_mnist.crosscheck.rules import rule
from lean_mnist.crosscheck.rules.finite_differences import finite_differences
from lean_mnist.crosscheck.rules.reference_gradients import compare_with_reference
from lean_mnist.crosscheck.subjects.calls import CallFailed, Subject, one_line
from lean_mnist.crosscheck.subjects.numbers import dot, in_dtype, norm, normal
from lean_mnist.errors import ArgumentError

BATCHES = (0, 1, 3, 17, 35)
SIZES = (1, 2, 15, 16, 17, 33)
LARGE = "large numbers"
# Beyond these an exponential overflows, in half precision above 11, in float32 above 88.
LARGE_SIZES = {torch.float16: 20.0, torch.float64: 1000.0}
SIZE_IN_FLOAT32 = 100.0
LARGE_TOLERANCE = 1e-2  # where larger numbers cancel, most digits are lost
DIFFERENCES_SUIT = 2000  # numbers, where there is no reference

Dimensions = Sequence[tuple[int, int]]  # an input's index, and one of its dimensions


@rule("batch size", order=140, varies=True)
def batch_sizes(ctx: Context) -> list[Finding]:
    """Outputs and gradients with each of ``BATCHES``: against the reference, or, without one, by finite differences."""
    vary = ctx.options.vary_batch
    if vary is False:
        return [not_applicable("vary_batch says which inputs have the batch as dimension 0, or makes others")]
    make = vary if callable(vary) else None
    batch = [] if callable(vary) else _batched(ctx, vary)

    def cases() -> Iterator[tuple[str, int, Sequence[Any]]]:
        for size in BATCHES:
            inputs = _resized(ctx, batch, size) if make is None else _made(ctx, make, size)
            yield "1 example" if size == 1 else f"{size} examples", size, inputs

    return _checked(ctx, cases()) or [passed(f"right with {', '.join(map(str, BATCHES))} examples")]


@rule("size", order=145, varies=True)
def sizes(ctx: Context) -> list[Finding]:
    """The same with each of ``SIZES`` for the dimensions in ``vary_sizes``, those of one length together."""
    given = ctx.options.vary_sizes
    if not given:
        return [not_applicable("vary_sizes says which dimensions of which inputs can have other sizes")]
    alike: dict[int, list[tuple[int, int]]] = {}
    for i, dimension in _dimensions(ctx, given):
        alike.setdefault(ctx.subject.inputs[i].shape[dimension], []).append((i, dimension))

    def cases() -> Iterator[tuple[str, int, Sequence[Any]]]:
        for length, dimensions in alike.items():
            names = ", ".join(f"{ctx.names[i]} dimension {dimension}" for i, dimension in dimensions)
            for size in SIZES:
                if size != length:
                    yield f"{names} of {size}", size, _resized(ctx, dimensions, size)

    return _checked(ctx, cases()) or [passed(f"right with sizes {', '.join(map(str, SIZES))}")]


def _checked(ctx: Context, cases: Iterator[tuple[str, int, Sequence[Any]]]) -> list[Finding]:
    """Failures at ``cases`` (words, a size, inputs); what is empty, or refused by the reference too, may raise."""
    findings: list[Finding] = []
    refused = []
    for words, size, inputs in cases:
        try:
            there = ctx.at(inputs, words)
        except CallFailed as failure:
            if size and (ctx.reference is None or _runs(ctx.reference, inputs)):
                findings.append(failed(f"its {failure}", words))
            else:
                refused.append(words)
            continue
        findings += failures_at(there, words)
    return findings or ([passed(f"right, or refused with an error ({'; '.join(refused)})")] if refused else [])


def _made(ctx: Context, vary: Callable[[int], Sequence[Any]], size: int) -> list[Any]:
    try:
        inputs = vary(size)
    except Exception as error:
        raise ArgumentError(f"vary_batch: for {size} it raised {type(error).__name__}: {one_line(error)}") from error
    expected = len(ctx.subject.inputs)
    if not isinstance(inputs, (list, tuple)) or len(inputs) != expected:
        found = len(inputs) if isinstance(inputs, (list, tuple)) else type(inputs).__name__
        raise ArgumentError(f"vary_batch: expected a list of {expected} inputs for {size} examples, found {found}")
    return list(inputs)


def _runs(reference: Subject, inputs: Sequence[Any]) -> bool:
    try:
        reference.call(inputs)
    except CallFailed:
        return False
    return True


def _batched(ctx: Context, vary: bool | Sequence[int]) -> Dimensions:
    inputs = ctx.subject.inputs
    if isinstance(vary, bool):
        return [(i, 0) for i in ctx.long]
    if isinstance(vary, (str, int)):
        raise ArgumentError(f"vary_batch: expected True, indices of inputs or a function, found {vary!r}")
    for i in vary:
        if i not in range(len(inputs)) or not isinstance(inputs[i], Tensor) or not inputs[i].shape[:1].numel():
            raise ArgumentError(f"vary_batch: expected inputs with at least one example, found input {i}")
    return [(i, 0) for i in vary]


def _dimensions(ctx: Context, given: Mapping[int | str, int | Sequence[int]]) -> Iterator[tuple[int, int]]:
    for key, dimensions in given.items():
        i = ctx.names.index(key) if key in ctx.names else key
        x = ctx.subject.inputs[i] if isinstance(i, int) and i in range(len(ctx.subject.inputs)) else None
        if not isinstance(i, int) or not isinstance(x, Tensor):
            raise ArgumentError(f"vary_sizes: expected the index or name of a tensor among the inputs, found {key!r}")
        for dimension in [dimensions] if isinstance(dimensions, int) else dimensions:
            if dimension not in range(-x.dim(), x.dim()) or not x.shape[dimension]:
                raise ArgumentError(
                    f"vary_sizes: expected dimensions of {ctx.names[i]} with entries, found {dimension!r}"
                )
            yield i, dimension % x.dim()


def _resized(ctx: Context, dimensions: Dimensions, size: int) -> list[Any]:
    """The inputs with ``size`` entries along each of ``dimensions``: theirs, again and again."""
    inputs = in_dtype(ctx.subject.inputs, None)
    for i, dimension in dimensions:
        x = inputs[i]
        inputs[i] = x.index_select(dimension, torch.arange(size, device=x.device) % x.shape[dimension])
    for i in {i for i, _ in dimensions} & set(ctx.checked):  # so that repeated entries are not the same
        x = inputs[i]
        inputs[i] = x * (1 + 0.1 * torch.rand(x.shape, generator=ctx.generator, device="cpu")).to(x)
    return inputs


def failures_at(there: Context, words: str) -> list[Finding]:
    """Failures at other inputs, called ``words``. Values at which the reference is not finite are left out."""
    try:
        there.subject.vjp(there.gaussian())
        if there.reference is None:
            found = [] if there.options.intended else finite_differences(there)
        elif [y.shape for y in there.reference.call(dtype=torch.float64).outputs] != [y.shape for y in there.outputs]:
            return [failed("another output shape than the reference's", words)]
        else:
            found = compare_with_reference(there)
    except CallFailed as failure:
        return [failed(f"its {failure}", words)]
    except ArgumentError:  # the reference does not take these, or has no finite gradient there
        return []
    return [
        failed(f.line, words, f.diagnosis)
        for f in found
        if f.verdict is Verdict.FAILED and (f.divergence is None or math.isfinite(f.divergence.reference))
    ]


@rule("special values", order=135, part=True, if_right=True)
def special_values(ctx: Context) -> list[Finding]:
    """Right where some inputs are zero or equal to others, or large: like the reference, or else differences."""
    if all(ctx.subject.inputs[i].numel() < 2 for i in ctx.checked):
        return [not_applicable("no input of more than one number")]
    looked = []
    for words, kind, tolerance in (("zeros and ties", _zeros_and_ties, 0.0), (LARGE, _large, LARGE_TOLERANCE)):
        if tolerance and ctx.options.tolerance:
            continue  # an iteration may not end there
        inputs = _with(ctx, kind)
        if _finite_there(ctx, inputs):
            looked.append(words)
            findings = _judged(ctx, inputs, words, max(tolerance, ctx.options.tolerance))
            if findings:
                return findings
    return [passed(f"right with {' and '.join(looked)}")] if looked else [not_applicable("not finite there")]


def _zeros_and_ties(x: Tensor, share: Tensor) -> Tensor:
    """A quarter of the numbers zero, an eighth the same as their neighbours, and an eighth as their row's largest."""
    tied = torch.where((share >= 0.25) & (share < 0.375), x.roll(1, -1), x)
    tied = torch.where((share >= 0.375) & (share < 0.5), x.amax(-1, keepdim=True), tied)
    return torch.where(share < 0.25, 0, tied)


def _large(x: Tensor, share: Tensor) -> Tensor:
    """An eighth of the numbers large, the largest and the smallest among them, so that either sign is."""
    size = LARGE_SIZES.get(x.dtype, SIZE_IN_FLOAT32)
    return torch.where((share >= 0.875) | (x == x.max()) | (x == x.min()), size * x.sign(), x)


def _with(ctx: Context, kind: Callable[[Tensor, Tensor], Tensor]) -> list[Any]:
    inputs = in_dtype(ctx.subject.inputs, None)
    for i in ctx.checked:
        if inputs[i].numel() > 1:
            # Of every kind as many as its share, also among few numbers.
            order = torch.randperm(inputs[i].numel(), generator=ctx.generator, device="cpu").to(inputs[i].device)
            inputs[i] = kind(inputs[i], (order / order.numel()).reshape(inputs[i].shape))
    return inputs


def _finite_there(ctx: Context, inputs: Sequence[Any]) -> bool:
    """True if outputs are finite, and gradients too where a reference gives them, in the inputs' own precision."""
    reference = ctx.gradient_reference or ctx.reference
    try:
        if reference is None:
            return all(bool(y.isfinite().all()) for y in ctx.subject.values(inputs))
        evaluated = reference.call(inputs)
        gradients = evaluated.gradients(ctx.checked, [torch.ones_like(y) for y in evaluated.outputs])
    except CallFailed:
        return False
    return all(bool(x.isfinite().all()) for x in (*evaluated.outputs, *gradients))


def _judged(ctx: Context, inputs: Sequence[Any], words: str, tolerance: float) -> list[Finding]:
    try:
        there = ctx.at(inputs, words)
        there.options = replace(there.options, tolerance=tolerance)
    except CallFailed as failure:
        return [failed(f"its {failure}", words)] if ctx.reference is not None else []
    small = sum(ctx.subject.inputs[i].numel() for i in ctx.checked) <= DIFFERENCES_SUIT
    if ctx.reference is None:
        try:
            gradients = there.subject.vjp(there.gaussian())
        except CallFailed as failure:
            return [failed(f"its {failure}", words, severity=Severity.WARNING)]
        names = [ctx.name(place) for place, g in enumerate(gradients) if bool(g.isnan().any())]
        if names:
            text = f"with {words} among the inputs the gradient is NaN and the outputs are finite"
            return [failed(text, ", ".join(names), severity=Severity.WARNING)]
        if not small or not all(bool(g.isfinite().all()) for g in gradients):
            return []
    return failures_at(there, words) or ([] if words == LARGE else _along_ties(there, words))


def _along_ties(there: Context, words: str) -> list[Finding]:
    """Differences along directions that keep zeros zero and equal numbers equal, along which these make no kink."""
    if there.gradient_reference is None:
        return []
    upstream = there.gaussian()
    ours = there.subject.vjp(upstream)
    values = reference_gradients(there.gradient_reference, upstream, there.generator)
    findings = []
    for place, (g, e) in enumerate(zip(ours, values.exact, strict=True)):
        x = there.subject.inputs[there.checked[place]]
        different, group = x.detach().unique(return_inverse=True)
        u = normal(different.shape, there.generator, x.device)[group] * (x != 0)
        found, expected = dot([u], [g]), dot([u], [e])
        rounding = values.allowed_norm(place, values.compare(place, "", g))
        if not abs(found - expected) <= LARGE_TOLERANCE * norm(e) + STANDARD_DEVIATIONS * rounding:
            text = f"where equal numbers move together, the slope is {found:.9g} by it, {expected:.9g} by the reference"
            findings.append(failed(text, f"{words}: {there.name(place)}"))
    return findings
