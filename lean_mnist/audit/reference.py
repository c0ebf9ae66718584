"""The reference: the same network, written independently of the chain rule, differentiated by PyTorch's autograd.

Nothing here is imported from ``chainrule`` or ``nn``: layers, activations and loss are PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

# Activations with a kink at 0, and the slope below it.
KINKED = {"relu": 0.0, "leaky-relu": 0.01}
# PyTorch's own.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky-relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "identity": lambda z: z,
}
# How many units of rounding a pre-activation may be off, as a multiple of the sum of its terms' magnitudes. Only units
# this close to the kink take their side from the step under test; all others must have the side of the reference.
KINK_ULPS = 32.0


class Reference(NamedTuple):
    """Loss (a scalar), gradients in the order of the parameters, logits, and how many units stood at the kink."""

    loss: Tensor
    gradients: list[Tensor]
    logits: Tensor
    kinks: int


class NetworkLoss(NamedTuple):
    """What is computed besides the parameters: activation and the options of the loss."""

    activation: str
    label_smoothing: float = 0.0
    logit_penalty: float = 0.0


def reference_gradients(
    loss: NetworkLoss,
    layers: Sequence[tuple[Tensor, Tensor | None]],
    x_BD: Tensor,
    labels_B: Tensor,
    *,
    dtype: torch.dtype,
    sides: Sequence[Tensor] | None = None,
) -> Reference:
    """Loss and gradients on a batch in ``dtype``, by autograd through an independently written forward.

    Args:
        layers: weight ``(H, D)`` and bias ``(H,)`` or ``None``, first layer first, in any precision.
        sides: for each hidden layer a bool ``(B, H)``, on which side of the kink the step under test saw each unit;
            used only where rounding could have put it on either.
    """
    precision_under_test = x_BD.dtype
    parameters = [
        tuple(None if p is None else p.detach().to(dtype).requires_grad_() for p in layer) for layer in layers
    ]
    with torch.enable_grad():
        h, kinks = x_BD.detach().to(dtype), 0
        uncertainty = torch.zeros_like(h)
        for index, (weight, bias) in enumerate(parameters):
            assert weight is not None
            z = F.linear(h, weight, bias)
            if index == len(parameters) - 1:
                break
            if loss.activation not in KINKED:
                h = ACTIVATIONS[loss.activation](z)
                continue
            positive = z > 0
            if sides is not None:
                uncertainty = _uncertainty(h, weight, bias, uncertainty, precision_under_test)
                close = z.detach().abs() <= uncertainty
                positive = torch.where(close, sides[index], positive)
                kinks += int(close.sum())
            h = torch.where(positive, z, KINKED[loss.activation] * z)
        value = F.cross_entropy(z, labels_B, label_smoothing=loss.label_smoothing)
        if loss.logit_penalty:
            value = value + loss.logit_penalty / 2 * z.square().sum(1).mean()
        flat = [p for layer in parameters for p in layer if p is not None]
        gradients = torch.autograd.grad(value, flat)
    return Reference(value.detach(), list(gradients), z.detach(), kinks)


@torch.no_grad()
def _uncertainty(h: Tensor, weight: Tensor, bias: Tensor | None, of_h: Tensor, dtype: torch.dtype) -> Tensor:
    """How far rounding in ``dtype`` may have moved ``z = h Wᵀ + b``, given how far it may have moved ``h``."""
    rounding = KINK_ULPS * torch.finfo(dtype).eps / 2
    own_bias = None if bias is None else rounding * bias.abs()
    return F.linear(rounding * h.abs() + of_h, weight.abs(), own_bias)
