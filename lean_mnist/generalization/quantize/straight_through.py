"""Rounding to a grid, with the straight-through gradient: forward beside backward.

The grid is ``q_k = shift + scale · k`` for ``k = 0 … K − 1``. Forward: the nearest point of the grid, halves to the
even k. Its derivative is 0 almost everywhere, so training uses another, that of the identity: what would lower the loss
at the rounded weight is done to the weight (Hinton, 2012; Bengio, Léonard and Courville, arXiv:1308.3432, 2013, section
4). On a grid from the smallest to the largest weight this is TensorFlow's ``fake_quant_with_min_max_vars``.

So the gradient that reaches the weights is, number for number, that of the loss at the rounded weights, which is a
gradient like any other and is checked like one. Only that it is then applied to the unrounded weights is a heuristic.

Runs on torch tensors and on NumPy object arrays of fractions, like :mod:`lean_mnist.chainrule`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from lean_mnist.chainrule.arrays import Array, check_upstream, primitives
from lean_mnist.errors import ArgumentError


class QuantizeTape(NamedTuple):
    """What the backward needs: the shape of w."""

    shape: tuple[int, ...]


def quantize_forward(w: Array, shift: Any, scale: Any, points: int) -> tuple[Array, QuantizeTape]:
    """``w̃ = shift + scale · clip(round((w − shift) / scale), 0, K − 1)``.

    Args: ``w`` of any shape; ``shift`` and ``scale > 0`` numbers; ``points`` K, at least 2.
    Returns: ``w̃`` of w's shape and the tape. Raises ``ArgumentError`` for a scale or number of points that is no grid.
    """
    primitives(w)
    if points < 2:
        raise ArgumentError(f"points: {points}, expected at least 2")
    if not scale > 0:
        raise ArgumentError(f"scale: {scale}, expected a number above 0")
    k = _clip(_round((w - shift) / scale), 0, points - 1)
    return shift + scale * k, QuantizeTape(tuple(w.shape))


def quantize_backward(tape: QuantizeTape, d_w: Array) -> Array:
    """``dw = dw̃``: the derivative of the identity in place of the derivative of rounding, which is 0."""
    check_upstream("d_w", d_w, tape.shape)
    return d_w


def _round(x: Array) -> Array:
    return torch.round(x) if isinstance(x, torch.Tensor) else _each(x, round)


def _clip(x: Array, low: Any, high: Any) -> Array:
    return x.clamp(low, high) if isinstance(x, torch.Tensor) else _each(x, lambda v: min(max(v, low), high))


def _each(x: np.ndarray, function: Any) -> np.ndarray:
    result = np.empty(x.shape, dtype=object)
    for index in np.ndindex(x.shape):
        result[index] = function(x[index])
    return result
