"""The exact gradient of a batch, enclosed by ``chainrule.mlp``'s own formulas on balls; errors bounded against it.

*Exact* means: the real gradient of the mean loss at exactly these weights and inputs (every float32, bfloat16 or
float64 number is a real number), with the conventions of the chain rule at a kink, and with the options of the loss
taken as the decimals they are written as.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.chainrule import losses, mlp
from lean_mnist.chainrule.activations import activation_named
from lean_mnist.chainrule.losses import Loss, softmax_cross_entropy
from lean_mnist.enclosure.ball import Ball
from lean_mnist.enclosure.rounding import check_gradual_underflow, gamma
from lean_mnist.errors import ArgumentError
from lean_mnist.nn import MLP
from lean_mnist.nn.step import names_of_layers


class GradientBound(NamedTuple):
    """Upper bounds on the error of the tensor ``name`` against the exact one that a ball encloses.

    ``largest`` bounds ``max |computed − exact|``, and ``relative`` ``‖computed − exact‖₂ / ‖exact‖₂`` (0 if the first
    norm is 0, infinite if only the second can be). A computed number that is infinite or NaN is infinitely far away.
    """

    name: str
    largest: float
    relative: float


@torch.no_grad()
def bound_gradient(name: str, computed: Tensor, exact: Ball) -> GradientBound:
    """Bounds on the error of ``computed`` (any floating dtype and shape) against the exact values inside ``exact``.

    ``|c − X| ≤ |c − a| + r`` for every X in the ball (a, r), number by number; norms follow, as they grow with every
    magnitude. Raises ``ArgumentError`` if the shapes differ.
    """
    if tuple(computed.shape) != tuple(exact.shape):
        raise ArgumentError(f"{name}: expected shape {tuple(exact.shape)}, found {tuple(computed.shape)}")
    if not computed.is_floating_point():
        raise ArgumentError(f"{name}: expected a floating dtype, found {computed.dtype}")
    if computed.numel() == 0:
        return GradientBound(name, 0.0, 0.0)
    values = computed.detach().to(exact.mid.device, torch.float64)
    farthest = (Ball.exact(values) - exact).magnitude  # infinite where the computed number is no real one
    error, size = _norm(farthest, 1), _norm(exact.mignitude, -1)
    if error == 0 or error == math.inf or size == 0:
        return GradientBound(name, float(farthest.amax()), 0.0 if error == 0 else math.inf)
    return GradientBound(name, float(farthest.amax()), math.nextafter(error / size, math.inf))


def _norm(magnitudes: Tensor, side: int) -> float:
    """A bound on the 2-norm of nonnegative numbers, from above (1) or below (−1): ``γ_n`` bounds a sum in any order."""
    largest = float(magnitudes.amax())
    if largest == 0 or largest == math.inf:
        return largest
    # Scaled by a power of 2 to a largest number in [½, 1), no square overflows, and what underflows is far below γ_n.
    exponent = math.frexp(largest)[1]
    half = -exponent // 2
    scaled = magnitudes * math.ldexp(1.0, half) * math.ldexp(1.0, -exponent - half)
    root = math.sqrt(float(scaled.square().sum())) * (1 + side * 2 * gamma(magnitudes.numel() + 8))
    try:
        bound = math.ldexp(root, exponent)
    except OverflowError:
        bound = math.inf
    return math.nextafter(bound, math.inf if side > 0 else 0.0)


# How many units of rounding a step may have moved a pre-activation, as a multiple of the sum of its terms' magnitudes.
# It decides only whose side of the kink is taken where ``sides`` are given, never how wide a ball is.
KINK_ULPS = 32.0
_CROSS_ENTROPY = softmax_cross_entropy()


@dataclass(frozen=True)
class Enclosure:
    """The mean loss and the gradient of every parameter, enclosed; where a kink is undecided, both sides are inside."""

    loss: Ball
    gradients: Mapping[str, Ball]  # by parameter name: "layers.0.weight", "layers.0.bias", …

    def bounds(self, computed: Mapping[str, Tensor]) -> tuple[GradientBound, ...]:
        """One bound a parameter, in order; raises ``ArgumentError`` if a gradient is missing."""
        missing = [name for name in self.gradients if name not in computed]
        if missing:
            raise ArgumentError(f"enclosure: expected a gradient of {', '.join(missing)}, found none")
        return tuple(bound_gradient(name, computed[name], exact) for name, exact in self.gradients.items())


def enclose_model_gradients(
    model: MLP, x_BD: Tensor, labels_B: Tensor, *, sides: Sequence[Tensor] | None = None
) -> Enclosure:
    """Enclose the exact gradient of ``model.loss(x, labels)`` at the model's weights; see :func:`enclose_gradients`."""
    loss = softmax_cross_entropy(model.label_smoothing, model.logit_penalty)
    return enclose_gradients(
        model.weights_and_biases(), x_BD, labels_B, activation=model.activation, loss=loss, sides=sides
    )


@torch.no_grad()
def enclose_gradients(
    layers: Sequence[tuple[Tensor, Tensor | None]],
    x_BD: Tensor,
    labels_B: Tensor,
    *,
    activation: str = "relu",
    loss: Loss = _CROSS_ENTROPY,
    sides: Sequence[Tensor] | None = None,
) -> Enclosure:
    """Enclose the exact gradient of an MLP's mean loss, for every parameter, and the mean loss.

    Args:
        layers: weight ``(H, D)`` and bias ``(H,)`` or ``None``, first layer first, of any floating dtypes.
        x_BD, labels_B: the batch, ``x`` of any floating dtype and labels int64 in 0 … C − 1.
        activation: by name; see ``chainrule.activations``.
        loss: of ``chainrule.losses``; softmax cross-entropy by default.
        sides: for each hidden layer a bool ``(B, H)``, on which side of its kink the step under test saw each unit.
            Where ``KINK_ULPS`` units of rounding in the precision of ``x`` could have put a unit on either side, the
            backward then takes the step's side, and what is enclosed is the gradient on the piece of the network that
            the step was on. Without them it is the gradient proper, and a step whose rounding flipped a unit is found
            to be as far from it as it is.

    Raises ``ArgumentError`` on shapes that do not fit and where subnormal numbers are flushed to zero.
    """
    check_gradual_underflow(x_BD.device)
    rule = activation_named(activation)
    balls = [(Ball.exact(weight), None if bias is None else Ball.exact(bias)) for weight, bias in layers]
    loss_B, tape = mlp.mlp_loss_forward(Ball.exact(x_BD), labels_B, balls, rule, loss)
    if sides is not None:
        rounding = KINK_ULPS * torch.finfo(x_BD.dtype).eps / 2
        tape = tape._replace(network=_take_sides(tape.network, balls, sides, rounding))
    d_loss_B = losses.mean_backward(loss_B, Ball.of_number(1, loss_B))
    needs = (False, tuple((True, bias is not None) for _, bias in layers))
    gradients = mlp.mlp_loss_backward(tape, balls, rule, loss, d_loss_B, needs)
    names = (name for pair in names_of_layers(layers) for name in pair if name is not None)
    found = (ball for pair in gradients.layers for ball in pair if ball is not None)
    return Enclosure(losses.mean_forward(loss_B), dict(zip(names, found, strict=True)))


def _take_sides(
    tape: mlp.MLPTape, layers: Sequence[tuple[Ball, Ball | None]], sides: Sequence[Tensor], rounding: float
) -> mlp.MLPTape:
    """The tape with the step's own sides where relative ``rounding`` of each term leaves them open."""
    if len(sides) != len(tape.saved):
        raise ArgumentError(f"sides: expected one tensor a hidden layer, {len(tape.saved)}, found {len(sides)}")
    saved, moved = [], torch.zeros_like(tape.inputs[0].mid)
    for h_in, h, (weight, bias), side in zip(tape.inputs, tape.saved, layers, sides, strict=False):
        found = (tuple(side.shape), side.dtype)
        if found != (tuple(h.shape), torch.bool):
            raise ArgumentError(f"sides: expected bool of shape {tuple(h.shape)}, found {found[1]} of shape {found[0]}")
        own = 0 if bias is None else rounding * bias.mid.abs()
        moved = (rounding * h_in.mid.abs() + moved) @ weight.mid.abs().T + own
        z = h_in.mid @ weight.mid.T + (0 if bias is None else bias.mid)
        close = z.abs() <= moved
        # Only the sign of what is kept is used on the way back.
        saved.append(Ball(torch.where(close, side.to(h.mid), h.mid), torch.where(close, 0, h.rad)))
    return mlp.MLPTape(tape.inputs, tuple(saved))
