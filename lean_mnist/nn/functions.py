"""``autograd.Function``: the chain rule's forward and manual backward as nodes of PyTorch's graph.

Where a backward is itself differentiated (``create_graph=True``), what the forward *computed* on the way carries no
graph, and its second derivative would silently be zero. So nodes save only inputs and outputs, which autograd
reconnects, or run the forward again from their saved inputs while a graph is being built (then
``torch.is_grad_enabled()`` inside the backward).
"""

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from lean_mnist.chainrule import losses, mlp
from lean_mnist.chainrule.activations import Activation
from lean_mnist.chainrule.losses import Loss


@dataclass
class StepTape:
    """Values that one forward and backward of the mean loss of a batch computed.

    Lists have one entry a layer, first layer first, ``None`` where the backward did not go.
    """

    labels_B: Tensor
    upstream: float = 1.0  # gradient of the step's loss in this batch's mean loss: its share of all examples
    layers: Sequence[mlp.Layer] | None = None  # those used, where they are not those of the step being checked
    inputs: list[Tensor] = field(default_factory=list)  # h_0 = x, h_1, …, h_{L−1}: the input of each dense layer
    pre_activations: list[Tensor] = field(default_factory=list)  # z_1 … z_L, the last the logits
    d_pre_activations: list[Tensor | None] = field(default_factory=list)  # dz_1 … dz_L
    d_inputs: list[Tensor | None] = field(default_factory=list)  # dh_0 … dh_{L−1}
    loss_B: Tensor | None = None

    def copied(self) -> "StepTape":
        """The same values in memory of their own: where an engine writes a later step's values into these tensors."""

        def copies(tensors: Sequence[Any]) -> list[Any]:
            return [None if tensor is None else tensor.clone() for tensor in tensors]

        return StepTape(
            self.labels_B.clone(), self.upstream, self.layers, copies(self.inputs), copies(self.pre_activations),
            copies(self.d_pre_activations), copies(self.d_inputs), *copies([self.loss_B]),
        )  # fmt: skip


def autocast_disabled(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """A context without autocast, which would change the dtype of some products inside a node and not of others."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()


def _in_the_given_dtype(backward: Any) -> Any:
    @functools.wraps(backward)
    def outside_autocast(ctx: Any, *upstream: Tensor) -> Any:
        with autocast_disabled(upstream[0]):
            return backward(ctx, *upstream)

    return outside_autocast


class Call(FunctionCtx):
    """The context of a forward and a backward that are called one after the other, with no graph between them.

    By it a training step uses the very node that gradcheck sees.
    """

    to_save: tuple[Tensor, ...]

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]:
        """Tensors that the forward gave to ``save_for_backward``."""
        return self.to_save


class ActivationFunction(Function):
    """``h = σ(z)``, elementwise, or row by row where ``activation`` is the softmax."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, activation: Activation) -> Tensor:
        """Value, and what the backward needs in ``ctx``."""
        h, saved = activation.forward(z)
        if activation.name == "identity":
            h = saved = z.clone()  # a Function must not return its input itself, nor a view of it
        ctx.activation = activation
        ctx.save_for_backward(saved)  # either z, the input, or h, the output: autograd reconnects both
        return h

    @staticmethod
    @_in_the_given_dtype
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of each argument of the forward, ``None`` where there is none."""
        (saved,) = ctx.saved_tensors
        return ctx.activation.backward(saved, upstream[0]), None


class LossFunction(Function):
    """One loss an example, ``loss_B``, from logits and labels."""

    @staticmethod
    def forward(ctx: Any, logits_BC: Tensor, labels_B: Tensor, loss: Loss) -> Tensor:
        """Value, and what the backward needs in ``ctx``."""
        loss_B, tape = loss.forward(logits_BC, labels_B)
        ctx.loss = loss
        ctx.save_for_backward(logits_BC, labels_B, *tape)
        return loss_B

    @staticmethod
    @_in_the_given_dtype
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of each argument of the forward, ``None`` where there is none."""
        logits_BC, labels_B, *tape = ctx.saved_tensors
        if torch.is_grad_enabled():
            _, tape = ctx.loss.forward(logits_BC, labels_B)
        return ctx.loss.backward(tuple(tape), upstream[0]), None, None


class MLPFunction(Function):
    """Logits of a whole network in one node. Parameters come flat: weight, bias or ``None``, first layer first."""

    @staticmethod
    def forward(ctx: Any, x_BD: Tensor, activation: Activation, *parameters: Tensor | None) -> Tensor:
        """Value, and what the backward needs in ``ctx``."""
        logits_BC, tape = mlp.mlp_forward(x_BD, layers_of(parameters), activation)
        ctx.activation = activation
        ctx.save_for_backward(x_BD, *parameters, *tape.inputs[1:], *tape.saved)
        return logits_BC

    @staticmethod
    @_in_the_given_dtype
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of each argument of the forward, ``None`` where there is none."""
        needs_x, _, *needs = ctx.needs_input_grad
        x_BD, *rest = ctx.saved_tensors
        parameters, tape = _split_tape(x_BD, rest, len(needs))
        layers = layers_of(parameters)
        if torch.is_grad_enabled():
            _, tape = mlp.mlp_forward(x_BD, layers, ctx.activation)
        gradients = mlp.mlp_backward(tape, layers, ctx.activation, upstream[0], _needs(needs_x, needs))
        return gradients.x_BD, None, *_flat(gradients)


class MLPLossFunction(Function):
    """The loss of a whole network on a batch, in one node, as of :class:`MLPFunction`; fills a ``step_tape``."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BD: Tensor,
        labels_B: Tensor,
        activation: Activation,
        loss: Loss,
        reduction: str,
        step_tape: StepTape | None,
        *parameters: Tensor | None,
    ) -> Tensor:
        """Value, and what the backward needs in ``ctx``."""
        loss_B, tape = mlp.mlp_loss_forward(x_BD, labels_B, layers_of(parameters), activation, loss)
        if step_tape is not None:
            step_tape.inputs, step_tape.pre_activations = list(tape.network.inputs), list(tape.network.pre_activations)
            step_tape.loss_B = loss_B
        ctx.activation, ctx.loss, ctx.reduction, ctx.step_tape = activation, loss, reduction, step_tape
        ctx.loss_tape_length = len(tape.loss)
        saved = (*parameters, *tape.network.inputs[1:], *tape.network.saved)
        ctx.save_for_backward(x_BD, labels_B, loss_B, *tape.loss, *saved)
        # With "none", loss_B is both saved and returned, so the saved one must be a copy the caller cannot reach.
        return reduce_losses(loss_B, reduction) if reduction != "none" else loss_B.clone()

    @staticmethod
    @_in_the_given_dtype
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of each argument of the forward, ``None`` where there is none."""
        needs_x, _, _, _, _, _, *needs = ctx.needs_input_grad
        x_BD, labels_B, loss_B, *rest = ctx.saved_tensors
        loss_tape, rest = tuple(rest[: ctx.loss_tape_length]), rest[ctx.loss_tape_length :]
        parameters, network_tape = _split_tape(x_BD, rest, len(needs))
        layers = layers_of(parameters)
        tape = mlp.MLPLossTape(network_tape, loss_tape)
        if torch.is_grad_enabled():
            _, tape = mlp.mlp_loss_forward(x_BD, labels_B, layers, ctx.activation, ctx.loss)
        d_loss_B = upstream[0]
        if ctx.reduction == "mean":
            d_loss_B = losses.mean_backward(loss_B, d_loss_B)
        elif ctx.reduction == "sum":
            d_loss_B = d_loss_B.expand(loss_B.shape)
        gradients = mlp.mlp_loss_backward(tape, layers, ctx.activation, ctx.loss, d_loss_B, _needs(needs_x, needs))
        if ctx.step_tape is not None:
            ctx.step_tape.d_pre_activations = list(gradients.d_pre_activations)
            ctx.step_tape.d_inputs = list(gradients.d_inputs)
        return gradients.x_BD, None, None, None, None, None, *_flat(gradients)


def reduce_losses(loss_B: Tensor, reduction: str) -> Tensor:
    """``loss_B`` itself, its sum, or its mean over the batch."""
    if reduction == "mean":
        return losses.mean_forward(loss_B)
    return loss_B.sum() if reduction == "sum" else loss_B


def layers_of(parameters: Sequence[Tensor | None]) -> list[mlp.Layer]:
    """Pairs (weight, bias) from the flat sequence weight, bias, weight, bias, …"""
    return list(zip(parameters[::2], parameters[1::2], strict=True))


def _flat(gradients: mlp.MLPGradients) -> list[Tensor | None]:
    return [gradient for layer in gradients.layers for gradient in layer]


def _needs(needs_x: bool, needs_parameters: Sequence[bool]) -> mlp.Needs:
    return needs_x, tuple(zip(needs_parameters[::2], needs_parameters[1::2], strict=True))


def _split_tape(x_BD: Tensor, saved: list[Any], parameters: int) -> tuple[list[Any], mlp.MLPTape]:
    hidden_layers = parameters // 2 - 1
    inputs = (x_BD, *saved[parameters : parameters + hidden_layers])
    return saved[:parameters], mlp.MLPTape(inputs, tuple(saved[parameters + hidden_layers :]))
