"""Activations and their derivatives, implemented independently of ``chainrule``: the reference of all checks.

Values are PyTorch's own, slopes are formulas of their own; nothing here is imported from ``chainrule``. The reference,
the local checks (exact, probed and batched), the magnitudes of gradients, gradcheck's piece and the rigorous count of
a certificate all read this table, so that an activation is added to all of them by one entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Elementwise = Callable[[Tensor], Tensor]


class ReferenceActivation(NamedTuple):
    """One activation ``σ``; every function takes and returns tensors of any one shape and floating dtype.

    ``below_kink`` is set where ``σ`` is linear on either side of a kink at 0, with slope 1 above it: the slope at and
    below 0. ``exact`` says that neither value nor slope rounds anything, so that two right implementations agree bit
    for bit.
    """

    value: Elementwise  # σ(z)
    slope: Elementwise  # σ'(z)
    slope_terms: (
        Elementwise  # bound on the magnitude of the terms that σ'(z) is a sum of: its rounding is relative to it
    )
    steepest: float  # a bound on |σ'(z)|
    below_kink: float | None = None
    exact: bool = False
    own_backward: Callable[[Tensor, Tensor], Tensor] | None = None  # a kernel for ``backward``, where there is one

    def backward(self, z: Tensor, d_h: Tensor) -> Tensor:
        """Downstream gradient ``dz = dh ⊙ σ'(z)``."""
        return d_h * self.slope(z) if self.own_backward is None else self.own_backward(z, d_h)

    def on_side(self, z: Tensor, positive: Tensor) -> Tensor:
        """``σ(z)`` by the piece to the right of the kink where ``positive`` (bool), to the left of it elsewhere."""
        assert self.below_kink is not None
        return torch.where(positive, z, self.below_kink * z)


def _step(below: float) -> Elementwise:
    return lambda z: torch.where(z > 0, z.new_ones(()), z.new_full((), below))


def _normal_density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)


_LEAKY = 0.01

REFERENCE_ACTIVATIONS: dict[str, ReferenceActivation] = {
    "relu": ReferenceActivation(
        torch.relu,
        _step(0.0),
        _step(0.0),
        1.0,
        below_kink=0.0,
        exact=True,
        own_backward=lambda z, d_h: torch.ops.aten.threshold_backward(d_h, z, 0),
    ),
    "leaky-relu": ReferenceActivation(
        lambda z: F.leaky_relu(z, _LEAKY), _step(_LEAKY), _step(_LEAKY), 1.0, below_kink=_LEAKY
    ),
    # σ'(z) = σ(z) σ(−z)
    "sigmoid": ReferenceActivation(
        torch.sigmoid,
        lambda z: torch.sigmoid(z) * torch.sigmoid(-z),
        lambda z: torch.sigmoid(z) * (1 + torch.sigmoid(z)),
        0.25,
    ),
    # tanh'(z) = 1 / cosh² z
    "tanh": ReferenceActivation(
        torch.tanh,
        lambda z: torch.cosh(z).reciprocal().square(),
        lambda z: 1 + torch.tanh(z).square(),
        1.0,
    ),
    # GELU'(z) = Φ(z) + z φ(z)
    "gelu": ReferenceActivation(
        F.gelu,
        lambda z: torch.special.ndtr(z) + z * _normal_density(z),
        lambda z: 1 + z.abs() * _normal_density(z),
        1.13,
    ),
    # SiLU'(z) = σ(z) + z σ(z) σ(−z)
    "silu": ReferenceActivation(
        F.silu,
        lambda z: torch.sigmoid(z) + z * torch.sigmoid(z) * torch.sigmoid(-z),
        lambda z: torch.sigmoid(z) * (1 + 2 * z.abs()),
        1.1,
    ),
    "identity": ReferenceActivation(
        lambda z: z, torch.ones_like, torch.ones_like, 1.0, exact=True, own_backward=lambda z, d_h: d_h
    ),
}
