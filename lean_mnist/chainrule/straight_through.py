"""Rounding to a uniform grid with the straight-through gradient: forward beside backward.

The grid is ``q_k = shift + scale · k`` for ``k = 0 … K − 1``. Forward: the nearest grid point, halves to the even k.
The derivative of rounding is 0 almost everywhere, so that of the identity is used instead: what would lower the loss at
the rounded weight is done to the weight (Hinton, 2012; Bengio, Léonard and Courville, arXiv:1308.3432, 2013, section
4). On a grid from the smallest to the largest weight this is TensorFlow's ``fake_quant_with_min_max_vars``.

The gradient that reaches the weights is therefore that of the loss at the rounded weights, number for number, and can
be checked like any other. That it is then applied to the unrounded weights is a heuristic.
"""

from typing import Any

import numpy as np
import torch

from lean_mnist.chainrule.arrays import Array, check_upstream, primitives
from lean_mnist.errors import ArgumentError


def quantize_forward(w: Array, shift: Any, scale: Any, points: int) -> tuple[Array, tuple[int, ...]]:
    """``w̃ = shift + scale · clip(round((w − shift) / scale), 0, K − 1)``.

    Args: ``w`` of any shape; ``shift`` and ``scale > 0`` numbers; ``points`` K, at least 2.
    Returns: ``w̃`` and its shape, for the backward. Raises ``ArgumentError`` for what is no grid.
    """
    primitives(w)
    if points < 2:
        raise ArgumentError(f"points: {points}, expected at least 2")
    if not scale > 0:
        raise ArgumentError(f"scale: {scale}, expected a number above 0")
    steps = (w - shift) / scale
    if isinstance(steps, torch.Tensor):
        k = steps.round().clamp(0, points - 1)
    else:
        k = np.frompyfunc(lambda v: min(max(round(v), 0), points - 1), 1, 1)(steps)
    return shift + scale * k, tuple(w.shape)


def quantize_backward(shape: tuple[int, ...], d_w: Array) -> Array:
    """``dw = dw̃``: the derivative of the identity."""
    check_upstream("d_w", d_w, shape)
    return d_w
