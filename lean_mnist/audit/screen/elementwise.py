"""The activations and their derivatives once more, for the screen to compare with.

PyTorch's own activations, and derivatives by formulas of their own. Where there is a place for the result it may be
written there, so that the same memory serves every step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lean_mnist.audit.reference import ACTIVATIONS, KINKED
from lean_mnist.torch_internals import threshold_backward_into

# Activations that round nothing, so that two correct implementations agree bit for bit.
EXACT = ("relu", "identity")


def derivative_reference(name: str, z: Tensor) -> Tensor:
    """``σ'(z)`` by formulas of its own: 0 and α at the kink, logistic and normal functions from ``torch.special``."""
    if name in KINKED:
        return torch.where(z > 0, z.new_ones(()), z.new_full((), KINKED[name]))
    if name == "sigmoid":
        return torch.sigmoid(z) * torch.sigmoid(-z)
    if name == "tanh":
        return torch.cosh(z).reciprocal().square()
    if name == "gelu":
        density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
        return torch.special.ndtr(z) + z * density
    return torch.ones_like(z)


def activated(name: str, z: Tensor, place: Tensor) -> Tensor:
    """``σ(z)``; in ``place`` for ReLU."""
    return torch.clamp_min(z, 0, out=place) if name == "relu" else ACTIVATIONS[name](z)


def times_derivative(name: str, d_h: Tensor, z: Tensor, place: Tensor) -> Tensor:
    """``dh ⊙ σ'(z)``; in ``place`` for ReLU."""
    if name == "relu":
        return threshold_backward_into(d_h, z, 0, place)
    if name == "identity":
        return d_h
    return d_h * derivative_reference(name, z)
