"""The independent reference: activations and network, written without the chain rule, differentiated by autograd.

Nothing here is imported from ``chainrule`` or ``nn``: layers, loss and values of activations are PyTorch's own, slopes
are formulas of their own. Everything else that checks reads the table of activations as well.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Elementwise = Callable[[Tensor], Tensor]


class ReferenceActivation(NamedTuple):
    """One activation ``σ``; every function takes and returns tensors of any one shape and floating dtype."""

    value: Elementwise  # σ(z)
    slope: Elementwise  # σ'(z)
    slope_terms: Elementwise  # bound on the magnitude of the terms that σ'(z) is a sum of, which its rounding follows
    steepest: float  # a bound on |σ'(z)|
    below_kink: float | None = None  # slope at and below 0 where σ has a kink there, linear on both sides and 1 above
    exact: bool = False  # neither value nor slope rounds anything: two right implementations agree bit for bit
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
        torch.tanh, lambda z: torch.cosh(z).reciprocal().square(), lambda z: 1 + torch.tanh(z).square(), 1.0
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


# How many units of rounding a pre-activation may be off, as a multiple of the sum of its terms' magnitudes. Only units
# this close to the kink take their side from the step under test; all others must have the side of the reference.
KINK_ULPS = 32.0


Layers = Sequence[tuple[Tensor, Tensor | None]]  # weight (H, D) and bias (H,) of each layer, first layer first


class NetworkLoss(NamedTuple):
    """All that decides a loss besides parameters and batch: the activation and the options of the loss."""

    activation: str
    label_smoothing: float = 0.0
    logit_penalty: float = 0.0

    @classmethod
    def of(cls, model: Any) -> "NetworkLoss":
        """The loss of ``model``, which has these as attributes."""
        return cls(model.activation, model.label_smoothing, model.logit_penalty)


class Reference(NamedTuple):
    """Loss (a scalar), gradients in the order of the parameters, logits, and how many units stood at the kink."""

    loss: Tensor
    gradients: list[Tensor]
    logits: Tensor
    kinks: int


def reference_gradients(
    loss: NetworkLoss,
    layers: Layers,
    x_BD: Tensor,
    labels_B: Tensor,
    *,
    dtype: torch.dtype,
    sides: Sequence[Tensor] | None = None,
) -> Reference:
    """Loss and gradients on a batch in ``dtype``, by autograd through an independently written forward.

    ``sides`` has for each hidden layer a bool ``(B, H)``: on which side of the kink the step under test saw each unit.
    It is used only where rounding could have put it on either.
    """
    precision_under_test, activation = x_BD.dtype, REFERENCE_ACTIVATIONS[loss.activation]
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
            if activation.below_kink is None:
                h = activation.value(z)
                continue
            positive = z > 0
            if sides is not None:
                uncertainty = _uncertainty(h, weight, bias, uncertainty, precision_under_test)
                close = z.detach().abs() <= uncertainty
                positive = torch.where(close, sides[index], positive)
                kinks += int(close.sum())
            h = activation.on_side(z, positive)
        value = F.cross_entropy(z, labels_B, label_smoothing=loss.label_smoothing)
        if loss.logit_penalty:
            value = value + loss.logit_penalty / 2 * z.square().sum(1).mean()
        flat = [p for layer in parameters for p in layer if p is not None]
        gradients = torch.autograd.grad(value, flat)
    return Reference(value.detach(), list(gradients), z.detach(), kinks)


@torch.no_grad()
def _uncertainty(h: Tensor, weight: Tensor, bias: Tensor | None, of_h: Tensor, dtype: torch.dtype) -> Tensor:
    """Bound on the rounding of ``z = h Wᵀ + b`` in ``dtype``, given a bound on that of ``h``."""
    rounding = KINK_ULPS * torch.finfo(dtype).eps / 2
    own_bias = None if bias is None else rounding * bias.abs()
    return F.linear(rounding * h.abs() + of_h, weight.abs(), own_bias)


class Magnitudes(NamedTuple):
    """Rounding to expect, in units of the network's precision, of each gradient, and of the mean loss by its logits."""

    gradients: list[float]
    loss: float


@torch.no_grad()
def magnitudes(loss: NetworkLoss, layers: Layers, x_BD: Tensor, labels_B: Tensor) -> Magnitudes:
    """2-norm of the uncancelled terms of every parameter's gradient, and of the mean loss as a sum of rounded logits.

    A gradient is a sum over examples of products of differences. Where ``softmax − onehot`` or the sum over the batch
    cancels, the result is small but its rounding is that of the terms. This follows the terms instead, in float64 and
    in quadrature, because rounding errors are as good as independent (Higham and Mary, 2019)::

        forward    e² ← (h² + e²) (W²)ᵀ + b²,  times t² at each activation       e: rounding of h and z, in units
        loss       (Σ ((p − q + λs) e)²)^½ / N
        logits     m² = ((p + q)² + (p (1 − p))² e² + λ² (s² + e²)) / N²
        backward   |dW|² = Σ (m²)ᵀ h²,  |db|² = Σ m²,  m² ← (m² W²) t²

    where ``t`` bounds the terms of σ' (for tanh, ``1 + h²`` rather than ``1 − h²``). Arguments as of
    :func:`reference_gradients`.
    """
    activation, inputs, terms = REFERENCE_ACTIVATIONS[loss.activation], [], []
    exact = [(w.to(torch.float64), None if b is None else b.to(torch.float64)) for w, b in layers]
    h = x_BD.to(torch.float64)
    e2 = torch.zeros_like(h)
    for index, (weight, bias) in enumerate(exact):
        inputs.append(h)
        z = F.linear(h, weight, bias)
        e2 = F.linear(h.square() + e2, weight.square(), None if bias is None else bias.square())
        if index + 1 < len(exact):
            terms.append(activation.slope_terms(z))
            h, e2 = activation.value(z), terms[-1].square() * e2
    classes, examples = z.shape[1], max(1, len(labels_B))
    q = F.one_hot(labels_B, classes) * (1 - loss.label_smoothing) + loss.label_smoothing / classes
    p, penalty = torch.softmax(z, 1), loss.logit_penalty
    of_loss = float(((p - q + penalty * z).square() * e2).sum().sqrt()) / examples
    m2 = (p + q).square() + (p * (1 - p)).square() * e2
    m2 = (m2 + penalty**2 * (z.square() + e2)) / examples**2
    gradients: list[float] = []
    for index in reversed(range(len(exact))):
        weight, bias = exact[index]
        if bias is not None:
            gradients.append(float(m2.sum().sqrt()))
        gradients.append(float((m2.T @ inputs[index].square()).sum().sqrt()))
        if index:
            m2 = (m2 @ weight.square()) * terms[index - 1].square()
    return Magnitudes(gradients[::-1], of_loss)
