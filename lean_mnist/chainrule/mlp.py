"""The multilayer perceptron: dense layers of any depth and width with an activation between them, and its loss."""

from collections.abc import Sequence
from typing import NamedTuple

from lean_mnist.chainrule import dense
from lean_mnist.chainrule.activations import Activation
from lean_mnist.chainrule.arrays import Array, check_same_kind, check_upstream, primitives
from lean_mnist.chainrule.losses import Loss
from lean_mnist.errors import ArgumentError

Layer = tuple[Array, Array | None]  # weight (H, D) and bias (H,) or None


class MLPTape(NamedTuple):
    """Values of the forward of an MLP of L layers; its backward needs ``inputs`` and ``saved``, besides the weights."""

    inputs: tuple[Array, ...]  # h_0 = x, h_1, …, h_{L−1}: the input of each dense layer
    saved: tuple[Array, ...]  # the array that each of the L − 1 activations keeps
    pre_activations: tuple[Array, ...] = ()  # z_1 … z_L, the last the logits


class MLPGradients(NamedTuple):
    """Gradients of an MLP, ``None`` where one was not asked for, and of the values between its layers.

    Tuples have one entry a layer, first layer first; those between the layers are ``None`` where the backward ended.
    """

    x_BD: Array | None
    layers: tuple[tuple[Array | None, Array | None], ...]
    d_pre_activations: tuple[Array | None, ...] = ()  # dz_1 … dz_L
    d_inputs: tuple[Array | None, ...] = ()  # dh_0 = dx, dh_1, …, dh_{L−1}


Needs = tuple[bool, tuple[tuple[bool, bool], ...]]  # is the gradient wanted: of x; of each layer's weight and bias


def mlp_forward(x_BD: Array, layers: Sequence[Layer], activation: Activation) -> tuple[Array, MLPTape]:
    """Logits ``s_BC`` of an MLP: ``h₀ = x``, ``z_l = h_{l−1} W_lᵀ + b_l``, ``h_l = σ(z_l)``, ``s = z_L``.

    Args: ``x_BD`` input; ``layers`` pairs of weight ``(H, D)`` and bias ``(H,)`` or ``None``, first layer first.
    Raises ``ArgumentError`` on shapes that do not fit, before any arithmetic.
    """
    check_mlp_shapes(x_BD, layers)
    return _forward(x_BD, layers, activation)


def _forward(x_BD: Array, layers: Sequence[Layer], activation: Activation) -> tuple[Array, MLPTape]:
    """``mlp_forward`` of shapes that fit."""
    affine = primitives(x_BD).affine  # dense_forward, without looking at the shapes again
    inputs, saved, pre_activations = [x_BD], [], []
    for weight, bias in layers[:-1]:
        z_BH = affine(inputs[-1], weight, bias)
        h_BH, kept = activation.forward(z_BH)
        inputs.append(h_BH)
        saved.append(kept)
        pre_activations.append(z_BH)
    logits_BC = affine(inputs[-1], *layers[-1])
    return logits_BC, MLPTape(tuple(inputs), tuple(saved), (*pre_activations, logits_BC))


def mlp_backward(
    tape: MLPTape, layers: Sequence[Layer], activation: Activation, d_logits_BC: Array, needs: Needs | None = None
) -> MLPGradients:
    """The chain rule, last layer first: from ``dz_L = ds``, ``dW_l, db_l, dh_{l−1}``, then ``dz_l = dh_l ⊙ σ'(z_l)``.

    Args: ``d_logits_BC`` upstream gradient; ``needs`` which gradients to compute (all by default). Nothing is computed
    below the lowest layer that needs a gradient.
    """
    check_upstream("d_logits", d_logits_BC, (tape.inputs[0].shape[0], layers[-1][0].shape[0]))
    needs_x, needs_layers = needs or (True, tuple((True, bias is not None) for _, bias in layers))
    gradients: list[tuple[Array | None, Array | None]] = [(None, None)] * len(layers)
    d_pre_activations: list[Array | None] = [None] * len(layers)
    d_inputs: list[Array | None] = [None] * len(layers)
    d_z = d_logits_BC
    for index in reversed(range(len(layers))):
        goes_below = needs_x or any(weight or bias for weight, bias in needs_layers[:index])
        layer_tape = dense.DenseTape(tape.inputs[index], layers[index][0])
        layer = dense.dense_backward(layer_tape, d_z, (goes_below, *needs_layers[index]))
        gradients[index] = (layer.weight_HD, layer.bias_H)
        d_pre_activations[index], d_inputs[index] = d_z, layer.x_BD
        if not goes_below:
            break
        if index:
            d_z = activation.backward(tape.saved[index - 1], layer.x_BD)
    return MLPGradients(d_inputs[0], tuple(gradients), tuple(d_pre_activations), tuple(d_inputs))


class MLPLossTape(NamedTuple):
    """Values of the forward of an MLP and its loss."""

    network: MLPTape
    loss: tuple[Array, ...]


def mlp_loss_forward(
    x_BD: Array, labels_B: Array, layers: Sequence[Layer], activation: Activation, loss: Loss
) -> tuple[Array, MLPLossTape]:
    """One loss an example, ``loss_B``, of an MLP's logits against integer labels."""
    check_mlp_shapes(x_BD, layers)
    if layers[-1][0].shape[0] < 1:
        raise ArgumentError(f"layers[{len(layers) - 1}].weight: expected at least one class")
    if tuple(labels_B.shape) != (x_BD.shape[0],):
        found = tuple(labels_B.shape)
        raise ArgumentError(f"labels: expected shape ({x_BD.shape[0]},), one a row of x, found {found}")
    logits_BC, network = _forward(x_BD, layers, activation)
    loss_B, loss_tape = loss.forward(logits_BC, labels_B)
    return loss_B, MLPLossTape(network, loss_tape)


def mlp_loss_backward(
    tape: MLPLossTape,
    layers: Sequence[Layer],
    activation: Activation,
    loss: Loss,
    d_loss_B: Array,
    needs: Needs | None = None,
) -> MLPGradients:
    """Gradients of ``Σ_B d_loss_B · loss_B``; arguments as of :func:`mlp_backward`."""
    return mlp_backward(tape.network, layers, activation, loss.backward(tape.loss, d_loss_B), needs)


def check_mlp_shapes(x: Array, layers: Sequence[Layer]) -> None:
    """Raise ``ArgumentError``, naming the argument, unless each layer fits the one before and the first fits ``x``."""
    if not layers:
        raise ArgumentError("layers: expected at least one layer, found none")
    dense.check_dense_shapes(x, *layers[0])
    units = layers[0][0].shape[0]
    for index, (weight, bias) in enumerate(layers[1:], start=1):
        check_same_kind(x, weight, bias, f"layers[{index}].")
        if len(weight.shape) != 2 or weight.shape[1] != units:
            raise ArgumentError(
                f"layers[{index}].weight: expected shape (H, {units}), as the layer before has that many units, "
                f"found {tuple(weight.shape)}"
            )
        units = weight.shape[0]
        if bias is not None and tuple(bias.shape) != (units,):
            raise ArgumentError(f"layers[{index}].bias: expected shape ({units},), found {tuple(bias.shape)}")
