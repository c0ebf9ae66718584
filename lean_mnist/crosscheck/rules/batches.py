"""The function at other batch sizes: none, one, odd ones, and one that no tile divides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.calls import CallFailed, Subject, one_line
from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.diagnosis import diagnose
from lean_mnist.crosscheck.numerics.differences import finite_differences
from lean_mnist.crosscheck.numerics.reference_outputs import (
    reference_gradients,
    reference_outputs,
    settled_gradient,
    settled_output,
)
from lean_mnist.crosscheck.report import Finding, Verdict, failed, not_applicable, passed
from lean_mnist.errors import ArgumentError

BATCH = "batch size"
SIZES = (0, 1, 3, 17, 35)

VaryBatch = "bool | Sequence[int] | Callable[[int], Sequence[Any]]"


def batch_sizes(ctx: Context, vary: bool | Sequence[int] | Callable[[int], Sequence[Any]]) -> list[Finding]:
    """Outputs and gradients at each of ``SIZES``: against the reference, or, without one, by finite differences.

    ``vary`` is a function from a batch size to inputs; or the indices of the inputs whose dimension 0 is the batch; or
    ``True`` for all tensors that are as long as the first checked one.
    """
    if vary is False:
        return [not_applicable(BATCH, "vary_batch says which inputs have the batch as dimension 0, or makes others")]
    findings: list[Finding] = []
    refused = []
    for size in SIZES:
        inputs = _made(ctx, vary, size) if callable(vary) else _resized(ctx, vary, size)
        at = Subject(ctx.subject.function, "function", inputs, ctx.checked, ctx.subject.seed, ctx.subject.clones)
        try:
            evaluated = at.call()
        except CallFailed as failure:
            if size and (ctx.reference is None or _runs(ctx.reference, inputs)):
                findings.append(failed(BATCH, f"its {failure}", _words(size)))
            else:
                refused.append(str(size))
            continue
        outputs = [y.detach() for y in evaluated.outputs]
        findings += _at_size(ctx, at, outputs, _words(size))
    note = f"; {', '.join(refused)} refused with an error" if refused else ""
    return findings or [passed(BATCH, f"right with {', '.join(map(str, SIZES))} examples{note}")]


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


def _words(size: int) -> str:
    return "1 example" if size == 1 else f"{size} examples"


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


def _at_size(ctx: Context, at: Subject, outputs: list[Tensor], words: str) -> list[Finding]:
    if ctx.reference is None:
        there = replace(ctx, subject=at, outputs=outputs, probes=1, noise={}, seed=ctx.seed + len(words))
        try:
            at.vjp(ctx.gaussian(outputs))
        except CallFailed as failure:
            return [failed(BATCH, f"its {failure}", words)]
        wrong = [finding for finding in finite_differences(there) if finding.verdict is Verdict.FAILED]
        return [replace(f, rule=BATCH, text=f"{BATCH}, {words}: {f.text}", subject=words) for f in wrong]
    reference = Subject(ctx.reference.function, "reference", at.inputs, ctx.checked, ctx.reference.seed)
    try:
        expected = reference_outputs(reference, [y.dtype for y in outputs])
        upstream = ctx.gaussian(outputs)
        ours = at.vjp(upstream)
        answer = reference_gradients(reference, upstream)
    except CallFailed as failure:
        return [failed(BATCH, f"its {failure}", words)]
    except ArgumentError:  # the reference does not take this size
        return []
    if [y.shape for y in outputs] != [y.shape for y in expected.exact]:
        return [failed(BATCH, "another output shape than the reference's", words)]
    findings = []
    for k, y in enumerate(outputs):
        divergence = settled_output(expected, k, f"output {k}", y, reference, ctx.generator)
        if not divergence.passed and bool(expected.exact[k].isfinite().all()):
            findings.append(failed(BATCH, str(divergence), words, diagnose(y, expected.exact[k])))
    for place, g in enumerate(ours):
        name = f"gradient of {ctx.name(place)}"
        divergence = settled_gradient(answer, place, name, g, reference, upstream, ctx.generator)
        if not divergence.passed and bool(answer.exact[place].isfinite().all()):
            findings.append(failed(BATCH, str(divergence), words, diagnose(g, answer.exact[place])))
    return findings
