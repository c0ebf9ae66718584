"""Checks at other sizes: batches of 0, 1 and odd sizes, and other dimensions about the tile sizes of kernels."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.report import Finding, Verdict, failed, not_applicable, passed
from lean_mnist.crosscheck.rules import rule
from lean_mnist.crosscheck.rules.finite_differences import finite_differences
from lean_mnist.crosscheck.rules.reference_gradients import compare_with_reference
from lean_mnist.crosscheck.subjects.calls import CallFailed, Subject, one_line
from lean_mnist.errors import ArgumentError

BATCHES = (0, 1, 3, 17, 35)
SIZES = (1, 2, 15, 16, 17, 33)

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
    """What fails at ``cases`` (words, a size, inputs); what is empty, or refused by the reference too, may raise."""
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
    first = inputs[ctx.checked[0]]
    if isinstance(vary, bool):
        long = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.dim() and first.dim()]
        return [(i, 0) for i in long if inputs[i].shape[0] == first.shape[0]]
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
    inputs = [x.detach() if isinstance(x, Tensor) else x for x in ctx.subject.inputs]
    for i, dimension in dimensions:
        x = inputs[i]
        inputs[i] = x.index_select(dimension, torch.arange(size, device=x.device) % x.shape[dimension])
    for i in {i for i, _ in dimensions} & set(ctx.checked):  # so that repeated entries are not the same
        x = inputs[i]
        inputs[i] = x * (1 + 0.1 * torch.rand(x.shape, generator=ctx.generator, device="cpu")).to(x)
    return inputs


def failures_at(there: Context, words: str) -> list[Finding]:
    """What fails at other inputs, called ``words``. Values at which the reference is not finite are left out."""
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
