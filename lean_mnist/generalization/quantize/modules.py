"""PyTorch faces of :mod:`straight_through`, and a network that trains with quantised weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from lean_mnist.chainrule.mlp import MLPTrace
from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.quantize.grid import RANGES, Grid, grid_of
from lean_mnist.generalization.quantize.straight_through import quantize_backward, quantize_forward
from lean_mnist.generalization.spaces.network import QuantizedLayer, QuantizedNetwork, check_bits
from lean_mnist.nn import MLP


class FakeQuantizeFunction(Function):
    """``w̃``, the point of the grid nearest to w, with the straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, shift: float, scale: float, points: int) -> Tensor:
        rounded, tape = quantize_forward(w, shift, scale, points)
        ctx.tape = tape
        return rounded

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return quantize_backward(ctx.tape, upstream[0]), None, None, None


def fake_quantize(w: Tensor, grid: Grid) -> Tensor:
    """``w (any shape)`` rounded to ``grid``, with the straight-through gradient; ``ArgumentError`` if not floating."""
    if not w.is_floating_point():
        raise ArgumentError(f"w: {w.dtype}, expected a floating dtype")
    return FakeQuantizeFunction.apply(w, float(grid.shift), float(grid.scale), grid.points)


class QuantizedMLP(MLP):
    """An :class:`MLP` that computes with weights of ``bits`` bits, and learns by the straight-through gradient.

    Each layer's grid follows its weights, anew at every forward: from the smallest to the largest
    (``minimum-maximum``), or the best one for normally distributed weights (``normal``, the default). The gradient
    takes the grid as given. Biases are rounded to float16. The activation is ReLU. Features are ``pixel / maximum``.

    The parameters' ``.grad`` is the gradient of the loss at the rounded weights and biases, those that
    :meth:`weights_and_biases` gives, so that it can be checked like any other.
    """

    def __init__(
        self,
        sizes: Sequence[int] = (784, 10, 10),
        *,
        bits: int,
        rule: str = "normal",
        maximum: int = 255,
        activation: str = "relu",
        **options: Any,
    ) -> None:
        """``options`` are those of :class:`MLP`. Raises ``ArgumentError`` as it does, and for bits outside 1 … 16."""
        check_bits(bits, "integer")
        if activation != "relu":
            raise ArgumentError(f"activation: {activation}, expected relu for exact labels by integers")
        if rule not in RANGES:
            raise ArgumentError(f"rule: {rule!r}, expected one of {', '.join(RANGES)}")
        super().__init__(sizes, "relu", **options)
        self.bits, self.rule, self.maximum = bits, rule, maximum

    @property
    def architecture(self) -> dict[str, Any]:
        """Plain values from which ``QuantizedMLP(**architecture)`` builds a network of the same form."""
        return {**super().architecture, "bits": self.bits, "rule": self.rule}

    same_kernels = False  # each step's grid is found in NumPy

    def loss_and_gradients(
        self,
        x_BD: Tensor,
        labels_B: Tensor,
        upstream: float = 1.0,
        trace: MLPTrace | None = None,
        into: Sequence[tuple[Tensor, Tensor | None]] | None = None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]]]:
        """As of :class:`MLP`, by way of the straight-through gradients."""
        pairs = self.parameter_pairs()
        flat = [parameter for pair in pairs for parameter in pair if parameter is not None]
        with torch.enable_grad():
            loss = self.loss(x_BD, labels_B, trace=trace)
            found = iter(torch.autograd.grad(loss, flat, torch.full_like(loss, upstream)))
        gradients: list[tuple[Tensor, Tensor | None]] = [
            (next(found), None if b is None else next(found)) for _, b in pairs
        ]
        for layer, places in zip(gradients, into or [], strict=bool(into)):
            for gradient, place in zip(layer, places, strict=True):
                if gradient is not None and place is not None:
                    place.copy_(gradient)
        return loss.detach(), gradients if into is None else list(into)

    def grids(self) -> list[Grid]:
        """The grid of each layer's weights as they are now. Raises ``ArgumentError`` if they are not finite."""
        return [self._grid(layer.weight) for layer in self.layers]  # type: ignore[arg-type]

    def weights_and_biases(self) -> list[tuple[Tensor, Tensor | None]]:
        """Pairs (rounded weight ``(H, D)``, rounded bias ``(H,)`` or ``None``), first layer first."""
        pairs: list[tuple[Tensor, Tensor | None]] = []
        for layer in self.layers:
            weight, bias = layer.weight, layer.bias
            rounded = None if bias is None else _Half.apply(bias)
            pairs.append((fake_quantize(weight, self._grid(weight)), rounded))  # type: ignore[arg-type]
        return pairs

    def quantized(self, maximum: int | None = None) -> QuantizedNetwork:
        """The network that the rounded weights are, on features ``pixel / maximum``.

        Its codes are read from the rounded weights: trained weights gather midway between two points, where rounding
        in another precision would choose the other one.
        """
        layers = []
        for (weight, own), grid in zip(self.weights_and_biases(), self.grids(), strict=True):
            codes, bias = grid.codes(_float64(weight)), None if own is None else _float64(own).astype(np.float16)
            layers.append(QuantizedLayer(codes, self.bits, grid.shift, grid.scale, bias))
        return QuantizedNetwork(tuple(layers), maximum or self.maximum)

    def exact(self) -> MLP:
        """The network of :meth:`quantized` in float64, which holds its weights and biases without rounding."""
        model = MLP(self.sizes, self.activation, bias=self.layers[0].bias is not None, dtype=torch.float64)
        with torch.no_grad():
            for (weight, bias), layer in zip(model.weights_and_biases(), self.quantized().layers, strict=True):
                weight.copy_(torch.from_numpy(layer.weight()))
                if bias is not None:
                    bias.copy_(torch.from_numpy(layer.bias.astype(np.float64)))  # type: ignore[union-attr]
        return model

    def _grid(self, weight: Tensor) -> Grid:
        return grid_of(_float64(weight), self.bits, self.rule)


def network_of(architecture: Mapping[str, Any], **options: Any) -> MLP:
    """The network that ``model.architecture`` describes, quantised where it names ``bits``.

    ``options`` are those of its class. Raises ``ArgumentError`` or ``TypeError`` for what describes none.
    """
    return (QuantizedMLP if "bits" in architecture else MLP)(**architecture, **options)


def meant(model: MLP) -> MLP:
    """What is said of ``model`` is said of this network: of a quantised one, whose meaning is exact, ``exact()``."""
    return model.exact() if isinstance(model, QuantizedMLP) else model


class _Half(Function):
    """Rounding to float16, with the straight-through gradient; biases are far inside float16's range."""

    @staticmethod
    def forward(ctx: Any, b: Tensor) -> Tensor:
        return b.to(torch.float16).to(b.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        return upstream[0]


def _float64(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().double().cpu().numpy()
    return array
