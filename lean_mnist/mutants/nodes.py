"""Faults that need no knowledge of the mathematics: they fit the backward of any ``autograd.Function``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lean_mnist.mutants.mutant import (
    Mutant,
    corpus,
    each_gradient,
    map_gradients,
    upstream_first,
    with_entry,
)

_nodes = corpus("any node", "node")


def _one_gradient(change: Callable[[Tensor], Tensor], last: bool) -> Any:
    """The fault that changes only the first, or only the last gradient that is returned."""

    def fault(backward: Any, ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        gradients = list(map_gradients(lambda g: g, backward(ctx, *upstream)))
        there = [i for i, g in enumerate(gradients) if isinstance(g, Tensor)]
        if there:
            gradients[there[-1 if last else 0]] = change(gradients[there[-1 if last else 0]])
        return tuple(gradients)

    return fault


def _transposed(g: Tensor) -> Tensor:
    if g.dim() < 2:
        return g
    return g.transpose(-1, -2).reshape(g.shape)  # of a square matrix this is its transpose


def _rows_swapped(g: Tensor) -> Tensor:
    return with_entry(g, slice(0, 2), g[:2].flip(0)) if g.dim() >= 2 else g


def _last_row_zero(g: Tensor) -> Tensor:
    return with_entry(g, -1, 0) if g.dim() >= 1 and len(g) else g


def _largest_element_zero(g: Tensor) -> Tensor:
    return g.masked_fill(g.detach().abs() == g.detach().abs().amax(), 0) if g.numel() else g


def _tail_dropped(g: Tensor) -> Tensor:
    return with_entry(g, slice(len(g) - len(g) % 16, None), 0) if g.dim() >= 1 else g


def _wide(g: Tensor) -> Tensor:
    return with_entry(g, (..., slice(128, None)), 0) if g.dim() >= 1 and g.shape[-1] > 128 else g


def _batch_of_one(g: Tensor) -> Tensor:
    return torch.zeros_like(g) if g.dim() >= 2 and len(g) == 1 else g


def _last_axis_mean(g: Tensor) -> Tensor:
    return g.mean(-1, keepdim=True).expand_as(g) if g.dim() >= 1 and g.numel() else g


class _Stale:
    """Returns the gradients of the last call of the same shapes."""

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[Any, ...]] = {}

    def __call__(self, backward: Any, ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        right = map_gradients(lambda g: g.clone(), backward(ctx, *upstream))
        key = tuple((g.shape, g.dtype) if isinstance(g, Tensor) else None for g in right)
        kept = self._kept.get(key, right)
        self._kept[key] = map_gradients(lambda g: g.detach().clone(), right)
        return kept


class _EveryFiftieth:
    """Every 50th call loses the last row of each gradient."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, backward: Any, ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        self._calls += 1
        change = _last_row_zero if self._calls % 50 == 0 else lambda g: g
        return map_gradients(change, backward(ctx, *upstream))


MUTANTS: tuple[Mutant, ...] = (
    _nodes("node-sign", "every gradient has the wrong sign", each_gradient(lambda g: -g)),
    _nodes("node-twice", "every gradient is counted twice", each_gradient(lambda g: 2 * g)),
    _nodes("node-scale-1.001", "every gradient is 0.1 % too large", each_gradient(lambda g: 1.001 * g)),
    _nodes(
        "node-transposed",
        "gradients are transposed if square, otherwise reshaped",
        each_gradient(_transposed),
        equivalent_when="no input has two dimensions of at least 2",
    ),
    _nodes(
        "node-rows-swapped",
        "the first two rows of every gradient are swapped",
        each_gradient(_rows_swapped),
        equivalent_when="no input has two rows",
    ),
    _nodes("node-last-row-zero", "the last row of every gradient is zero", each_gradient(_last_row_zero)),
    _nodes(
        "node-element-zero",
        "the largest element of the first gradient is zero",
        _one_gradient(_largest_element_zero, last=False),
    ),
    _nodes(
        "node-last-input",
        "the last gradient is 1 % too large, the others are right",
        _one_gradient(lambda g: 1.01 * g, last=True),
    ),
    _nodes(
        "node-nan",
        "the last gradient holds a NaN",
        _one_gradient(lambda g: with_entry(g, (0,) * g.dim(), float("nan")) if g.numel() else g, last=True),
    ),
    _nodes(
        "node-bfloat16", "gradients are rounded to bfloat16", each_gradient(lambda g: g.to(torch.bfloat16).to(g.dtype))
    ),
    _nodes(
        "node-wide",
        "columns beyond the first 128 of every gradient are zero",
        each_gradient(_wide),
        "more than 128 columns",
    ),
    _nodes("node-batch-of-one", "a gradient of one row is zero", each_gradient(_batch_of_one), "input of one row"),
    _nodes(
        "node-upstream-ones", "the upstream gradient is taken to be 1", upstream_first(torch.ones_like), "upstream != 1"
    ),
    _nodes(
        "node-upstream-sign",
        "only the sign of the upstream gradient is used",
        upstream_first(torch.sign),
        "upstream != 1",
    ),
    _nodes(
        "node-upstream-clipped",
        "the upstream gradient is clipped to −1 … 1",
        upstream_first(lambda g: g.clamp(-1, 1)),
        "upstream > 1",
    ),
    _nodes(
        "node-upstream-mean",
        "the upstream gradient is averaged along its last axis",
        upstream_first(_last_axis_mean),
        "upstream varies",
    ),
    _nodes(
        "node-upstream-tail-16",
        "rows of the upstream gradient beyond the last block of 16 are dropped",
        upstream_first(_tail_dropped),
        "upstream rows not divisible by 16",
    ),
    _nodes("node-stale", "gradients are those of the last call", _Stale, "second call"),
    _nodes("node-race-every-50", "every 50th call loses the last row", _EveryFiftieth, "every 50th call"),
)
