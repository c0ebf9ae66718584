"""Faults against what autograd expects of a backward, whatever it computes: memory, layout, dtype, second derivatives.

More of them, replayed from shipped kernels, are in :mod:`lean_mnist.mutants.escapes`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lean_mnist.mutants.mutant import Mutant, corpus, map_gradients, upstream_first

_contracts = corpus("contracts", "node")


def packed_strides(g: Tensor) -> tuple[int, ...]:
    """The strides that a contiguous tensor of this shape has."""
    strides = [1] * g.dim()
    for axis in reversed(range(g.dim() - 1)):
        strides[axis] = strides[axis + 1] * max(1, g.shape[axis + 1])
    return tuple(strides)


def _transposed_read_by_rows(g: Tensor) -> Tensor:
    transposed = g.dim() == 2 and not g.is_contiguous() and g.T.is_contiguous()
    return g.T.reshape(g.shape) if transposed else g


def _expanded_has_one_element(g: Tensor) -> Tensor:
    if g.numel() <= 1 or any(g.stride()):
        return g
    first = torch.zeros(g.numel(), dtype=g.dtype, device=g.device)
    first[0] = g.detach().flatten()[0]
    return first.reshape(g.shape)


def _offset_ignored(g: Tensor) -> Tensor:
    return g.as_strided(g.shape, g.stride(), 0) if g.storage_offset() else g


def _rounded_under_autocast(backward: Any, ctx: Any, *upstream: Any) -> Any:
    gradients = backward(ctx, *upstream)
    if not torch.is_autocast_enabled("cpu"):
        return gradients
    return map_gradients(lambda g: g.to(torch.bfloat16).to(g.dtype), gradients)


def _rescaled_by_largest(g: Tensor) -> Tensor:
    largest = g.detach().abs().amax() if g.numel() else torch.ones_like(g).sum()
    return g / largest * largest  # 0 / 0


def _upstream_as_scratch(backward: Any, ctx: Any, *upstream: Any) -> Any:
    gradients = map_gradients(torch.clone, backward(ctx, *upstream))
    for g in upstream:
        if isinstance(g, Tensor) and g.numel() > 1 and all(g.stride()):
            g.data.zero_()
    return gradients


def _divided_by_rows(backward: Any, ctx: Any, *upstream: Any) -> Any:
    gradients = backward(ctx, *upstream)
    if any(isinstance(g, Tensor) and g.dim() and len(g) == 0 for g in upstream):
        return map_gradients(lambda g: g * float("nan"), gradients)  # 0 / 0
    return gradients


MUTANTS: tuple[Mutant, ...] = (
    _contracts(
        "upstream-as-scratch",
        "the memory of the upstream gradient is zeroed after use",
        _upstream_as_scratch,
        "upstream used again",
    ),
    _contracts(
        "upstream-read-by-rows",
        "a transposed upstream gradient is read row by row",
        upstream_first(_transposed_read_by_rows),
        "transposed upstream",
    ),
    _contracts(
        "upstream-one-element",
        "an expanded upstream gradient is taken to hold one element",
        upstream_first(_expanded_has_one_element),
        "expanded upstream",
    ),
    _contracts(
        "upstream-offset-ignored",
        "the upstream gradient is read from the start of its storage",
        upstream_first(_offset_ignored),
        "upstream inside a larger tensor",
    ),
    _contracts(
        "upstream-rescaled",
        "the upstream gradient is divided by its largest element and multiplied again",
        upstream_first(_rescaled_by_largest),
        "upstream = 0",
    ),
    _contracts(
        "autocast-bfloat16",
        "gradients are rounded to bfloat16 where autocast is on",
        _rounded_under_autocast,
        "autocast",
        equivalent_when="the Function may answer in autocast's precision; ours promise the precision they are given",
        ours_only=True,
    ),
    _contracts("empty-batch-nan", "an empty batch gives gradients of NaN", _divided_by_rows, "empty batch"),
)
