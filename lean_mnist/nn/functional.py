"""Functions on tensors whose gradients are written by hand; arguments are checked before any arithmetic.

All tensors of one call have one floating dtype (any) and one device; labels are int64. Gradients flow to every floating
argument that asks for one, second derivatives included. Under autocast the dtype is that of the arguments.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lean_mnist.chainrule import losses
from lean_mnist.chainrule.activations import ACTIVATIONS, Activation, activation_named
from lean_mnist.chainrule.losses import Loss, softmax_cross_entropy
from lean_mnist.errors import ArgumentError, check_choice
from lean_mnist.nn import functions

REDUCTIONS = ("mean", "sum", "none")
_CROSS_ENTROPY = softmax_cross_entropy()
_SOFTMAX = Activation("softmax", lambda s: losses.softmax_forward(s), lambda p, d_p: losses.softmax_backward(p, d_p))


def dense(x_BD: Tensor, weight_HD: Tensor, bias_H: Tensor | None = None) -> Tensor:
    """``x Wᵀ + b``: ``(B, H)`` from ``x (B, D)``, ``weight (H, D)`` and ``bias (H,)`` or ``None``."""
    _check_tensors(x=x_BD, weight=weight_HD, bias=bias_H)
    return _apply(functions.MLPFunction, x_BD, ACTIVATIONS["identity"], weight_HD, bias_H)


def activate(z: Tensor, activation: str) -> Tensor:
    """``σ(z)``, elementwise, of a tensor of any shape; σ by name (see ``lean_mnist.chainrule.activations``)."""
    _check_tensors(z=z)
    return _apply(functions.ActivationFunction, z, activation_named(activation))


def _elementwise(name: str) -> Callable[[Tensor], Tensor]:
    def function(z: Tensor) -> Tensor:
        return activate(z, name)

    function.__name__ = function.__qualname__ = name.replace("-", "_")
    function.__doc__ = activation_named(name).forward.__doc__
    return function


relu, leaky_relu, sigmoid, tanh, gelu = map(_elementwise, ("relu", "leaky-relu", "sigmoid", "tanh", "gelu"))


def softmax(logits_BC: Tensor) -> Tensor:
    """``e^(s_c) / Σ_k e^(s_k)`` along each row of ``(B, C)``, stable for logits of any size."""
    _check_tensors(logits=logits_BC)
    return _apply(functions.ActivationFunction, logits_BC, _SOFTMAX)


def cross_entropy(
    logits_BC: Tensor,
    labels_B: Tensor,
    label_smoothing: float = 0.0,
    logit_penalty: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Softmax cross-entropy of ``logits (B, C)`` against ``labels (B,)`` in 0 … C − 1; formula in ``chainrule.losses``.

    A scalar for reduction ``"mean"`` or ``"sum"``; ``(B,)`` for ``"none"``.
    """
    _check_tensors(logits=logits_BC)
    check_choice("reduction", reduction, REDUCTIONS)
    _check_labels(labels_B, logits_BC)
    loss = softmax_cross_entropy(label_smoothing, logit_penalty)
    return functions.reduce_losses(_apply(functions.LossFunction, logits_BC, labels_B, loss), reduction)


def mlp(x_BD: Tensor, layers: Sequence[tuple[Tensor, Tensor | None]], activation: str = "relu") -> Tensor:
    """Logits ``(B, C)`` of a multilayer perceptron in one node; ``layers`` are pairs (weight, bias or ``None``)."""
    return _apply(functions.MLPFunction, x_BD, activation_named(activation), *_flat(x_BD, layers))


def mlp_loss(
    x_BD: Tensor,
    labels_B: Tensor,
    layers: Sequence[tuple[Tensor, Tensor | None]],
    activation: str = "relu",
    loss: Loss = _CROSS_ENTROPY,
    reduction: str = "mean",
    tape: functions.StepTape | None = None,
) -> Tensor:
    """The loss of a multilayer perceptron on a batch, network and loss in one node: what the trainer differentiates.

    Of a network in 16 bits it is computed, and returned, in float32. A ``tape`` is filled with what this forward and
    its backward compute on the way, for checks.
    """
    flat = _flat(x_BD, layers)
    check_choice("reduction", reduction, REDUCTIONS)
    _check_labels(labels_B, x_BD)
    rule, loss = activation_named(activation), loss_for(x_BD.dtype, loss)
    return _apply(functions.MLPLossFunction, x_BD, labels_B, rule, loss, reduction, tape, *flat)


@torch.no_grad()
def mlp_loss_and_gradients(
    x_BD: Tensor,
    labels_B: Tensor,
    layers: Sequence[tuple[Tensor, Tensor | None]],
    activation: str = "relu",
    loss: Loss = _CROSS_ENTROPY,
    upstream: float = 1.0,
    tape: functions.StepTape | None = None,
) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]]]:
    """The mean loss of a batch, and ``upstream`` times its gradients in every weight and bias: a training step's work.

    The same node as :func:`mlp_loss`, its forward and its backward called one after the other without a graph.
    """
    flat = _flat(x_BD, layers)
    _check_labels(labels_B, x_BD)
    call = functions.Call((*(False,) * 6, *(parameter is not None for parameter in flat)))
    node, rule = functions.MLPLossFunction, activation_named(activation)
    with functions.autocast_disabled(x_BD):
        mean = node.forward(call, x_BD, labels_B, rule, loss_for(x_BD.dtype, loss), "mean", tape, *flat)
        gradients = node.backward(call, mean.new_full((), upstream))[6:]
    return mean, functions.layers_of(gradients)


def loss_for(dtype: torch.dtype, loss: Loss) -> Loss:
    """``loss`` of logits of ``dtype``: itself, or computed in float32 for 16 bits, which are too few."""
    if dtype not in (torch.float16, torch.bfloat16):
        return loss

    def backward(tape: tuple[Tensor, ...], d_loss_B: Tensor) -> Tensor:
        d_logits_BC: Tensor = loss.backward(tape, d_loss_B)
        return d_logits_BC.to(dtype)

    return Loss(lambda logits_BC, labels_B: loss.forward(logits_BC.float(), labels_B), backward)


def _apply(function: Any, *arguments: Any) -> Any:
    with functions.autocast_disabled(arguments[0]):
        return function.apply(*arguments)


def _flat(x_BD: Tensor, layers: Sequence[tuple[Tensor, Tensor | None]]) -> list[Tensor | None]:
    """The parameters in one list, weight, bias, weight, bias, …, checked together with ``x``."""
    flat = [parameter for layer in layers for parameter in layer]
    names = [f"layers[{index}].{part}" for index in range(len(layers)) for part in ("weight", "bias")]
    _check_tensors(x=x_BD, **dict(zip(names, flat, strict=True)))
    return flat


def _check_tensors(**named: Tensor | None) -> None:
    given = {name: tensor for name, tensor in named.items() if tensor is not None}
    first_name, first = next(iter(given.items()))
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise ArgumentError(f"{name}: expected a tensor, found {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise ArgumentError(f"{name}: expected a floating dtype, found {tensor.dtype}")
        if tensor.dtype != first.dtype:
            raise ArgumentError(f"{name}: expected {first.dtype}, the dtype of {first_name}, found {tensor.dtype}")
        if tensor.device != first.device:
            raise ArgumentError(f"{name}: expected device {first.device}, that of {first_name}, found {tensor.device}")


def _check_labels(labels_B: Tensor, like: Tensor) -> None:
    if not isinstance(labels_B, Tensor):
        raise ArgumentError(f"labels: expected a tensor, found {type(labels_B).__name__}")
    if labels_B.dtype != torch.int64:
        raise ArgumentError(f"labels: expected torch.int64, found {labels_B.dtype}")
    if labels_B.device != like.device:
        raise ArgumentError(f"labels: expected device {like.device}, found {labels_B.device}")
