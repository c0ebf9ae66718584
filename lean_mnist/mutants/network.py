"""Faults in how the layers are chained: the wrong tape, the wrong layer, a layer forgotten."""

from __future__ import annotations

from typing import Any

import torch

from lean_mnist.chainrule.mlp import MLPGradients
from lean_mnist.mutants.mutant import Mutant, after, corpus

_network = corpus("network", "network")


def _mask_of_layer_above(original: Any, tape: Any, *rest: Any) -> Any:
    saved = list(tape.saved)
    if len(saved) >= 2 and saved[0].shape == saved[1].shape:
        saved[0] = saved[1]
    return original(tape._replace(saved=tuple(saved)), *rest)


def _same_shape_swapped(gradients: MLPGradients, *arguments: Any) -> MLPGradients:
    layers = list(gradients.layers)
    shapes = [None if weight is None else weight.shape for weight, _ in layers]
    for below in range(len(layers) - 1):
        if shapes[below] is not None and shapes[below] == shapes[below + 1]:
            layers[below], layers[below + 1] = layers[below + 1], layers[below]
            break
    return gradients._replace(layers=tuple(layers))


def _first_of_three_detached(gradients: MLPGradients, *arguments: Any) -> MLPGradients:
    if len(gradients.layers) < 3:
        return gradients
    weight, bias = (None if g is None else torch.zeros_like(g) for g in gradients.layers[0])
    return gradients._replace(layers=((weight, bias), *gradients.layers[1:]))


def _without_biases(gradients: MLPGradients, tape: Any, layers: Any, *rest: Any) -> MLPGradients:
    if any(bias is not None for _, bias in layers):
        return gradients
    return gradients._replace(
        layers=tuple((None if w is None else torch.cat([w[:, :-1], 0 * w[:, -1:]], 1), b) for w, b in gradients.layers)
    )


def _frozen_takes_weight(gradients: MLPGradients, *arguments: Any) -> MLPGradients:
    """A layer whose bias needs no gradient is taken for frozen altogether."""
    return gradients._replace(
        layers=tuple(
            (torch.zeros_like(w) if w is not None and b is None and layer[1] is not None else w, b)
            for (w, b), layer in zip(gradients.layers, arguments[1], strict=True)
        )
    )


def _input_zero(gradients: MLPGradients, *arguments: Any) -> MLPGradients:
    return gradients if gradients.x_BD is None else gradients._replace(x_BD=torch.zeros_like(gradients.x_BD))


MUTANTS: tuple[Mutant, ...] = (
    _network(
        "mask-of-layer-above",
        "the first layer is masked by the second where their widths agree",
        _mask_of_layer_above,
        "layers of one shape",
    ),
    _network(
        "layers-swapped",
        "two layers of one shape get each other's gradients",
        after(_same_shape_swapped),
        "layers of one shape",
    ),
    _network(
        "first-layer-detached",
        "from three layers on the first one gets none",
        after(_first_of_three_detached),
        "depth >= 3",
    ),
    _network(
        "column-lost-without-bias",
        "without biases the last column of every dW is lost",
        after(_without_biases),
        "no bias",
    ),
    _network(
        "frozen-bias-takes-weight",
        "the weight beside a frozen bias gets no gradient",
        after(_frozen_takes_weight),
        "frozen parameter",
    ),
    _network(
        "input-gradient-zero", "the gradient of the network's input is zero", after(_input_zero), "input needs gradient"
    ),
)
