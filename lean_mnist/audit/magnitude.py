"""How large the terms of each gradient are before they cancel: what rounding is relative to.

A gradient is a sum over examples of products of differences. When ``softmax − onehot`` or the sum over the batch
cancels, the result is small but its rounding is that of the terms. This follows the terms instead, in quadrature,
because rounding errors are as good as independent (Higham and Mary, 2019)::

    forward    e² ← (h² + e²) (W²)ᵀ + b²,  times s² at each activation       e: rounding of h and z, in units
    logits     m² = ((p + q)² + (p (1 − p))² e² + λ² (s² + e²)) / N²
    backward   |dW|² = Σ (m²)ᵀ h²,  |db|² = Σ m²,  m² ← (m² W²) s²

where ``s`` bounds the terms of σ' (for tanh, ``1 + h²`` rather than ``1 − h²``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lean_mnist.audit.reference import KINKED, NetworkLoss

# For each activation: its value, and a bound on the terms of its derivative.
_VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky-relu": lambda z: F.leaky_relu(z, KINKED["leaky-relu"]),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "identity": lambda z: z,
}
_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda z: (z > 0).to(z.dtype),
    "leaky-relu": lambda z: torch.where(z > 0, 1.0, KINKED["leaky-relu"]).to(z.dtype),
    "sigmoid": lambda z: torch.sigmoid(z) * (1 + torch.sigmoid(z)),
    "tanh": lambda z: 1 + torch.tanh(z).square(),
    "gelu": lambda z: 1 + z.abs() * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi),
    "identity": torch.ones_like,
}


@torch.no_grad()
def gradient_magnitudes(
    loss: NetworkLoss, layers: Sequence[tuple[Tensor, Tensor | None]], x_BD: Tensor, labels_B: Tensor
) -> list[float]:
    """The 2-norm of the uncancelled terms of every parameter's gradient, in the order of the parameters; float64."""
    exact = [(w.to(torch.float64), None if b is None else b.to(torch.float64)) for w, b in layers]
    h_BD = x_BD.to(torch.float64)
    e2_BD = torch.zeros_like(h_BD)
    inputs, slopes = [], []
    for index, (weight, bias) in enumerate(exact):
        inputs.append(h_BD)
        z_BH = F.linear(h_BD, weight, bias)
        e2_BD = F.linear(h_BD.square() + e2_BD, weight.square(), None if bias is None else bias.square())
        if index + 1 < len(exact):
            slopes.append(_SLOPES[loss.activation](z_BH))
            h_BD, e2_BD = _VALUES[loss.activation](z_BH), slopes[-1].square() * e2_BD
    p_BC = torch.softmax(z_BH, 1)
    q_BC = F.one_hot(labels_B, z_BH.shape[1]) * (1 - loss.label_smoothing) + loss.label_smoothing / z_BH.shape[1]
    m2_BH = (p_BC + q_BC).square() + (p_BC * (1 - p_BC)).square() * e2_BD
    m2_BH = (m2_BH + loss.logit_penalty**2 * (z_BH.square() + e2_BD)) / len(labels_B) ** 2
    magnitudes: list[float] = []
    for index in reversed(range(len(exact))):
        weight, bias = exact[index]
        if bias is not None:
            magnitudes.append(float(m2_BH.sum().sqrt()))
        magnitudes.append(float((m2_BH.T @ inputs[index].square()).sum().sqrt()))
        if index:
            m2_BH = (m2_BH @ weight.square()) * slopes[index - 1].square()
    return magnitudes[::-1]
