"""Faults that fit the backward of any ``autograd.Function``: no mathematics of it need be known.

``CONTRACTS`` are those against what autograd expects of every backward: memory, layout, dtype.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.mutants.mutant import GRADIENT, NODE, UPSTREAM, Group, Memory, key_of, map_gradients, with_entry

# fmt: off
ANY_NODE, CONTRACTS = Group("any node"), Group("contracts")
gradient, upstream, node = (partial(ANY_NODE, part) for part in (GRADIENT, UPSTREAM, NODE))


def _at_place(change: Any, place: int) -> Any:
    """The fault that changes one of the gradients that are returned: the first (0) or the last (−1)."""

    def fault(backward: Any, ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        gradients = list(map_gradients(lambda g: g, backward(ctx, *upstream)))
        there = [i for i, g in enumerate(gradients) if isinstance(g, Tensor)]
        if there:
            gradients[there[place]] = change(gradients[there[place]])
        return tuple(gradients)

    return fault


gradient("node-sign", Kind.SIGN, "every gradient has the wrong sign")(lambda g: -g)
gradient("node-twice", Kind.CONSTANT_FACTOR, "every gradient is counted twice")(lambda g: 2 * g)
gradient("node-scale-1.001", Kind.CONSTANT_FACTOR, "every gradient is 0.1 % too large")(lambda g: 1.001 * g)
gradient("node-transposed", Kind.TRANSPOSE, "gradients are transposed if square, otherwise reshaped",
    unless="no input has two dimensions of at least 2")(
    lambda g: g if g.dim() < 2 else g.transpose(-1, -2).reshape(g.shape))
gradient("node-rows-swapped", Kind.PERMUTATION, "the first two rows of every gradient are swapped",
    unless="no input has two rows")(lambda g: with_entry(g, slice(0, 2), g[:2].flip(0)) if g.dim() >= 2 else g)


@gradient("node-last-row-zero", Kind.ZERO)
def _last_row_zero(g: Tensor) -> Tensor:
    """The last row of every gradient is zero."""
    return with_entry(g, -1, 0) if g.dim() >= 1 and len(g) else g


node("node-element-zero", Kind.ZERO, "the largest element of the first gradient is zero")(
    _at_place(lambda g: g.masked_fill(g.detach().abs() == g.detach().abs().amax(), 0) if g.numel() else g, 0))
node("node-last-input", Kind.CONSTANT_FACTOR,
    "the last gradient is 1 % too large, the others are right")(_at_place(lambda g: 1.01 * g, -1))
node("node-nan", Kind.NAN, "the last gradient holds a NaN")(
    _at_place(lambda g: with_entry(g, (0,) * g.dim(), float("nan")) if g.numel() else g, -1))
gradient("node-bfloat16", Kind.PRECISION,
    "gradients are rounded to bfloat16")(lambda g: g.to(torch.bfloat16).to(g.dtype))
gradient("node-wide", Kind.ZERO, "columns beyond the first 128 of every gradient are zero", "more than 128 columns")(
    lambda g: with_entry(g, (..., slice(128, None)), 0) if g.dim() >= 1 and g.shape[-1] > 128 else g)
gradient("node-batch-of-one", Kind.ZERO, "a gradient of one row is zero",
    "input of one row")(lambda g: torch.zeros_like(g) if g.dim() >= 2 and len(g) == 1 else g)
upstream("node-upstream-ones", Kind.UPSTREAM_IGNORED, "the upstream gradient is taken to be 1",
    "upstream != 1")(torch.ones_like)
upstream("node-upstream-sign", Kind.UPSTREAM_IGNORED, "only the sign of the upstream gradient is used",
    "upstream != 1")(torch.sign)
# Of a number above 1 a 1 is left.
upstream("node-upstream-clipped", (Kind.CLIPPING, Kind.UPSTREAM_IGNORED), "the upstream gradient is clipped to −1 … 1",
    "upstream > 1")(lambda g: g.clamp(-1, 1))
upstream("node-upstream-mean", Kind.UPSTREAM_IGNORED, "the upstream gradient is averaged along its last axis",
    "upstream varies")(lambda g: g.mean(-1, keepdim=True).expand_as(g) if g.dim() >= 1 and g.numel() else g)
upstream("node-upstream-tail-16", (Kind.MISSING_TERM, Kind.ZERO),
    "rows of the upstream gradient beyond the last block of 16 are dropped", "upstream rows not divisible by 16")(
    lambda g: with_entry(g, slice(len(g) - len(g) % 16, None), 0) if g.dim() >= 1 else g)


@node("node-stale", Kind.STALE_VALUE, shows="second call", remembers=True)
def _stale(memory: Memory, backward: Any, ctx: Any, *upstream: Any) -> tuple[Any, ...]:
    """Gradients are those of the last call."""
    right = map_gradients(torch.clone, backward(ctx, *upstream))
    kept = memory.swap(key_of(*right), map_gradients(lambda g: g.detach().clone(), right))
    return right if kept is memory.kept[key_of(*right)] else kept


@node("node-race-every-50", Kind.NONDETERMINISM, shows="every 50th call", remembers=True)
def _every_fiftieth(memory: Memory, backward: Any, ctx: Any, *upstream: Any) -> tuple[Any, ...]:
    """Every 50th call loses the last row."""
    return map_gradients(torch.clone if memory.count() % 50 else _last_row_zero, backward(ctx, *upstream))


@CONTRACTS(NODE, "upstream-as-scratch", Kind.MUTATION, shows="upstream used again")
def _upstream_as_scratch(backward: Any, ctx: Any, *upstream: Any) -> Any:
    """The memory of the upstream gradient is zeroed after use."""
    gradients = map_gradients(torch.clone, backward(ctx, *upstream))
    for g in upstream:
        if isinstance(g, Tensor) and g.numel() > 1 and all(g.stride()):
            g.data.zero_()
    return gradients
CONTRACTS(UPSTREAM, "upstream-read-by-rows", Kind.LAYOUT, "a transposed upstream gradient is read row by row",
    "transposed upstream")(
    lambda g: g.T.reshape(g.shape) if g.dim() == 2 and not g.is_contiguous() and g.T.is_contiguous() else g)
CONTRACTS(UPSTREAM, "upstream-one-element", Kind.LAYOUT, "an expanded upstream gradient is taken to hold one element",
    "expanded upstream")(
    lambda g: g if g.numel() <= 1 or any(g.stride()) else
    with_entry(g.new_zeros(g.shape), (0,) * g.dim(), g.detach().flatten()[0]))
CONTRACTS(UPSTREAM, "upstream-offset-ignored", Kind.LAYOUT,
    "the upstream gradient is read from the start of its storage",
    "upstream inside a larger tensor")(lambda g: g.as_strided(g.shape, g.stride(), 0) if g.storage_offset() else g)
CONTRACTS(UPSTREAM, "upstream-rescaled", Kind.NAN,
    "the upstream gradient is divided by its largest element and multiplied again", "upstream = 0")(
    lambda g: g / g.detach().abs().amax() * g.detach().abs().amax() if g.numel() else g)  # 0 / 0
CONTRACTS(GRADIENT, "autocast-bfloat16", Kind.PRECISION, "gradients are rounded to bfloat16 where autocast is on",
    "autocast", unless="the Function may answer in autocast's precision; ours promise the precision they are given",
    ours_only=True)(lambda g: g.to(torch.bfloat16).to(g.dtype) if torch.is_autocast_enabled("cpu") else g)
CONTRACTS(NODE, "empty-batch-nan", Kind.NAN, "an empty batch gives gradients of NaN", "empty batch")(
    lambda backward, ctx, *upstream: map_gradients(
        lambda g: g * (float("nan") if any(isinstance(v, Tensor) and v.dim() and len(v) == 0 for v in upstream) else 1),
        backward(ctx, *upstream)))  # 0 / 0
