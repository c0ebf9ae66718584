"""Multilayer perceptron with weights of few bits, trained by the straight-through gradient."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd import Function

from lean_mnist.chainrule.straight_through import quantize_backward, quantize_forward
from lean_mnist.errors import ArgumentError, check_choice
from lean_mnist.nn.functions import StepTape
from lean_mnist.nn.grid import RANGES, Grid, check_bits, grid_of
from lean_mnist.nn.modules import MLP


class StraightThrough(Function):
    """Replace ``w`` by ``rounded``, of one shape and dtype; the gradient of ``w`` is that of ``rounded``."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, rounded: Tensor) -> Tensor:
        """A copy of ``rounded``."""
        ctx.shape = tuple(w.shape)
        return rounded.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of ``w``, and none of ``rounded``."""
        return quantize_backward(ctx.shape, upstream[0]), None


def fake_quantize(w: Tensor, grid: Grid) -> Tensor:
    """``w (any shape)`` rounded to ``grid``, with the straight-through gradient; ``ArgumentError`` if not floating."""
    if not w.is_floating_point():
        raise ArgumentError(f"w: {w.dtype}, expected a floating dtype")
    rounded, _ = quantize_forward(w.detach(), float(grid.shift), float(grid.scale), grid.points)
    return StraightThrough.apply(w, rounded)


class RoundedLayer(NamedTuple):
    """The exact numbers of a layer: ``codes`` uint16 (H, D) of its weights on ``grid``, ``bias`` float16 (H,)."""

    grid: Grid
    codes: npt.NDArray[np.uint16]
    bias: npt.NDArray[np.float16] | None


class QuantizedMLP(MLP):
    """An :class:`MLP` that computes with weights of ``bits`` bits, and learns by the straight-through gradient.

    Each layer's grid follows its weights, anew at every forward, by a ``rule`` of :func:`grid_of`; the gradient takes
    it as given. Biases are rounded to float16. The activation is ReLU. The parameters' ``.grad`` is that of the loss at
    the rounded weights and biases, which :meth:`weights_and_biases` gives.
    """

    def __init__(
        self, sizes: Sequence[int], activation: str = "relu", *, bits: int, rule: str = "normal", **options: Any
    ) -> None:
        """``options`` are those of :class:`MLP`. Raises ``ArgumentError`` as it does, and for bits outside 1 … 16."""
        check_bits(bits)
        if activation != "relu":
            raise ArgumentError(f"activation: {activation}, expected relu for exact labels by integers")
        check_choice("rule", rule, RANGES)
        super().__init__(sizes, activation, **options)
        self.bits, self.rule = bits, rule

    @property
    def architecture(self) -> dict[str, Any]:
        """Plain values from which ``QuantizedMLP(**architecture)`` builds a network of the same form."""
        return {**super().architecture, "bits": self.bits, "rule": self.rule}

    def loss_and_gradients(
        self, x_BD: Tensor, labels_B: Tensor, upstream: float = 1.0, tape: StepTape | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]]]:
        """As of :class:`MLP`, at the rounded weights; the straight-through backward brings the gradients to the own."""
        loss, at_rounded = super().loss_and_gradients(x_BD, labels_B, upstream, tape)
        return loss, [(_straight_through(w), None if b is None else _straight_through(b)) for w, b in at_rounded]

    def grids(self) -> list[Grid]:
        """The grid of each layer's weights as they are now. Raises ``ArgumentError`` if they are not finite."""
        return [grid_of(_float64(weight), self.bits, self.rule) for weight, _ in self.parameter_pairs()]

    def weights_and_biases(self) -> list[tuple[Tensor, Tensor | None]]:
        """Pairs (rounded weight ``(H, D)``, rounded bias ``(H,)`` or ``None``), first layer first."""
        pairs: list[tuple[Tensor, Tensor | None]] = []
        for (weight, bias), grid in zip(self.parameter_pairs(), self.grids(), strict=True):
            # Biases are far inside float16's range.
            rounded = None if bias is None else StraightThrough.apply(bias, bias.detach().half().to(bias.dtype))
            pairs.append((fake_quantize(weight, grid), rounded))
        return pairs

    def rounded_layers(self) -> list[RoundedLayer]:
        """The exact numbers that the weights are rounded to, first layer first.

        Codes are read from the rounded weights: trained weights gather midway between two points, where rounding in
        another precision would choose the other one.
        """
        return [
            RoundedLayer(grid, grid.codes(_float64(weight)), None if b is None else _float64(b).astype(np.float16))
            for (weight, b), grid in zip(self.weights_and_biases(), self.grids(), strict=True)
        ]


def network_of(architecture: Mapping[str, Any], **options: Any) -> MLP:
    """The network that ``model.architecture`` describes, quantised where it names ``bits``.

    ``options`` are those of its class. Raises ``ArgumentError`` for what describes none.
    """
    return (QuantizedMLP if "bits" in architecture else MLP)(**architecture, **options)


@torch.no_grad()
def exact_network(model: MLP) -> MLP:
    """The network whose exact numbers define ``model``: a quantised one's rounded weights in float64, else itself."""
    if not isinstance(model, QuantizedMLP):
        return model
    exact = MLP(**MLP.architecture.fget(model), dtype=torch.float64)  # type: ignore[attr-defined]
    for (weight, bias), layer in zip(exact.parameter_pairs(), model.rounded_layers(), strict=True):
        weight.copy_(torch.from_numpy(layer.grid.values(layer.codes)))
        if bias is not None and layer.bias is not None:
            bias.copy_(torch.from_numpy(layer.bias.astype(np.float64)))
    return exact


def _straight_through(gradient: Tensor) -> Tensor:
    return quantize_backward(tuple(gradient.shape), gradient)


def _float64(tensor: Tensor) -> npt.NDArray[np.float64]:
    array: npt.NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return array
