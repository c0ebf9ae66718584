"""Faults in how the layers are chained: the wrong tape, the wrong layer, a layer forgotten."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from lean_mnist.chainrule.mlp import MLPGradients, MLPTape
from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.mutants.mutant import NETWORK, Group

GROUP = Group("network")
network = partial(GROUP, NETWORK)


@network("mask-of-layer-above", Kind.MASK, shows="layers of one shape")
def _mask_of_layer_above(original: Any, tape: MLPTape, *rest: Any) -> MLPGradients:
    """The first layer is masked by the second where their widths agree."""
    saved = list(tape.saved)
    if len(saved) >= 2 and saved[0].shape == saved[1].shape:
        saved[0] = saved[1]
    return original(tape._replace(saved=tuple(saved)), *rest)


@network("layers-swapped", Kind.SWAPPED_TENSORS, shows="layers of one shape")
def _same_shape_swapped(original: Any, *arguments: Any) -> MLPGradients:
    """Two layers of one shape get each other's gradients."""
    gradients = original(*arguments)
    layers = list(gradients.layers)
    shapes = [None if weight is None else weight.shape for weight, _ in layers]
    for below in range(len(layers) - 1):
        if shapes[below] is not None and shapes[below] == shapes[below + 1]:
            layers[below], layers[below + 1] = layers[below + 1], layers[below]
            break
    return gradients._replace(layers=tuple(layers))


@network("first-layer-detached", Kind.ZERO, shows="depth >= 3")
def _first_of_three_detached(original: Any, *arguments: Any) -> MLPGradients:
    """From three layers on the first one gets none."""
    gradients = original(*arguments)
    if len(gradients.layers) < 3:
        return gradients
    weight, bias = (None if g is None else torch.zeros_like(g) for g in gradients.layers[0])
    return gradients._replace(layers=((weight, bias), *gradients.layers[1:]))


@network("column-lost-without-bias", Kind.ZERO, shows="no bias")
def _without_biases(original: Any, tape: MLPTape, layers: Any, *rest: Any) -> MLPGradients:
    """Without biases the last column of every dW is lost."""
    gradients = original(tape, layers, *rest)
    if any(bias is not None for _, bias in layers):
        return gradients
    return gradients._replace(
        layers=tuple((None if w is None else torch.cat([w[:, :-1], 0 * w[:, -1:]], 1), b) for w, b in gradients.layers)
    )


@network("frozen-bias-takes-weight", Kind.ZERO, shows="frozen parameter")
def _frozen_takes_weight(original: Any, tape: MLPTape, layers: Any, *rest: Any) -> MLPGradients:
    """The weight beside a frozen bias gets no gradient."""
    gradients = original(tape, layers, *rest)
    return gradients._replace(
        layers=tuple(
            (torch.zeros_like(w) if w is not None and b is None and layer[1] is not None else w, b)
            for (w, b), layer in zip(gradients.layers, layers, strict=True)
        )
    )


@network("input-gradient-zero", Kind.ZERO, shows="input needs gradient")
def _input_zero(original: Any, *arguments: Any) -> MLPGradients:
    """The gradient of the network's input is zero."""
    gradients = original(*arguments)
    return gradients if gradients.x_BD is None else gradients._replace(x_BD=torch.zeros_like(gradients.x_BD))
