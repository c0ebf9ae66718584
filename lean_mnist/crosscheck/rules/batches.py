"""Checks at other batch sizes: 0, 1, odd ones, and one that the usual tile sizes of kernels do not divide."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
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

SIZES = (0, 1, 3, 17, 35)


@rule("batch size", order=140)
def batch_sizes(ctx: Context) -> list[Finding]:
    """Outputs and gradients at each of ``SIZES``: against the reference, or, without one, by finite differences."""
    vary = ctx.options.vary_batch
    if vary is False:
        return [not_applicable("vary_batch says which inputs have the batch as dimension 0, or makes others")]
    findings: list[Finding] = []
    refused = []
    for size in SIZES:
        inputs = _made(ctx, vary, size) if callable(vary) else _resized(ctx, vary, size)
        words = "1 example" if size == 1 else f"{size} examples"
        try:
            there = replace(
                ctx, subject=ctx.subject.at(inputs), seed=ctx.seed + len(words), noise={}, kinks=set(),
                reference=None if ctx.reference is None else ctx.reference.at(inputs),
                smooth=None if ctx.smooth is None else ctx.smooth.at(inputs),
                options=replace(ctx.options, probes=1),
            )  # fmt: skip
        except CallFailed as failure:
            if size and (ctx.reference is None or _runs(ctx.reference, inputs)):
                findings.append(failed(f"its {failure}", words))
            else:
                refused.append(str(size))
            continue
        findings += _failures(there, words)
    note = f"; {', '.join(refused)} refused with an error" if refused else ""
    return findings or [passed(f"right with {', '.join(map(str, SIZES))} examples{note}")]


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


def _resized(ctx: Context, vary: bool | Sequence[int], size: int) -> list[Any]:
    inputs = list(ctx.subject.inputs)
    tensors = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.dim()]
    first = ctx.subject.inputs[ctx.checked[0]]
    if isinstance(vary, bool):
        batched = [i for i in tensors if first.dim() and inputs[i].shape[0] == first.shape[0]]
    elif isinstance(vary, (str, int)):
        raise ArgumentError(f"vary_batch: expected True, indices of inputs or a function, found {vary!r}")
    else:
        batched = list(vary)
    for i in batched:
        if i not in tensors or inputs[i].shape[0] == 0:
            raise ArgumentError(f"vary_batch: expected inputs with at least one example, found input {i}")
        x = inputs[i].detach()
        inputs[i] = x[torch.arange(size, device=x.device) % x.shape[0]]
        if i in ctx.checked:  # so that repeated examples are not the same
            inputs[i] = inputs[i] * (1 + 0.1 * torch.rand(inputs[i].shape, generator=ctx.generator)).to(x)
    return inputs


def _failures(there: Context, words: str) -> list[Finding]:
    """The failures at one batch size. Values at which the reference is not finite are left out."""
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
    except ArgumentError:  # the reference does not take this size, or has no finite gradient there
        return []
    return [
        failed(f.line, words, f.diagnosis)
        for f in found
        if f.verdict is Verdict.FAILED and (f.divergence is None or math.isfinite(f.divergence.reference))
    ]
