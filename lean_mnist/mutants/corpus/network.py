"""Faults in how the layers are chained: the wrong tape, the wrong layer, a layer forgotten."""

from functools import partial
from typing import Any

import torch

from lean_mnist.chainrule.mlp import MLPGradients, MLPTape
from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.mutants.mutant import NETWORK, NETWORK_GRADIENTS, Group, with_entry

GROUP = Group("network")
gradients_of = partial(GROUP, NETWORK_GRADIENTS)


@GROUP(NETWORK, "mask-of-layer-above", Kind.MASK, shows="layers of one shape")
def _mask_of_layer_above(original: Any, tape: MLPTape, *rest: Any) -> MLPGradients:
    """The first layer is masked by the second where their widths agree."""
    saved = list(tape.saved)
    if len(saved) >= 2 and saved[0].shape == saved[1].shape:
        saved[0] = saved[1]
    return original(tape._replace(saved=tuple(saved)), *rest)


@gradients_of("layers-swapped", Kind.SWAPPED_TENSORS, shows="layers of one shape")
def _same_shape_swapped(gradients: MLPGradients, *arguments: Any) -> MLPGradients:
    """Two layers of one shape get each other's gradients."""
    layers = list(gradients.layers)
    shapes = [None if weight is None else weight.shape for weight, _ in layers]
    for below in range(len(layers) - 1):
        if shapes[below] is not None and shapes[below] == shapes[below + 1]:
            layers[below], layers[below + 1] = layers[below + 1], layers[below]
            break
    return gradients._replace(layers=tuple(layers))


@gradients_of("first-layer-detached", Kind.ZERO, shows="depth >= 3")
def _first_of_three_detached(gradients: MLPGradients, *arguments: Any) -> MLPGradients:
    """From three layers on the first one gets none."""
    if len(gradients.layers) < 3:
        return gradients
    weight, bias = (None if g is None else torch.zeros_like(g) for g in gradients.layers[0])
    return gradients._replace(layers=((weight, bias), *gradients.layers[1:]))


@gradients_of("column-lost-without-bias", Kind.ZERO, shows="no bias")
def _without_biases(gradients: MLPGradients, tape: MLPTape, layers: Any, *rest: Any) -> MLPGradients:
    """Without biases the last column of every dW is lost."""
    if any(bias is not None for _, bias in layers):
        return gradients
    lost = ((None if w is None else with_entry(w, (..., -1), 0), b) for w, b in gradients.layers)
    return gradients._replace(layers=tuple(lost))


@gradients_of("frozen-bias-takes-weight", Kind.ZERO, shows="frozen parameter")
def _frozen_takes_weight(gradients: MLPGradients, tape: MLPTape, layers: Any, *rest: Any) -> MLPGradients:
    """The weight beside a frozen bias gets no gradient."""
    found = (
        (torch.zeros_like(w) if w is not None and b is None and bias is not None else w, b)
        for (w, b), (_, bias) in zip(gradients.layers, layers, strict=True)
    )
    return gradients._replace(layers=tuple(found))


gradients_of("input-gradient-zero", Kind.ZERO, "the gradient of the network's input is zero", "input needs gradient")(
    lambda right, *rest: right if right.x_BD is None else right._replace(x_BD=torch.zeros_like(right.x_BD))
)
