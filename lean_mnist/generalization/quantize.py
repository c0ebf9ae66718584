"""Quantised networks as members of a finite space, and what the examples they were learned from prove about them.

A network is trained with rounded weights (:mod:`lean_mnist.nn.quantized`), or rounded after training. Shares of δ:
:mod:`~.generalization.confidence`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from lean_mnist.data.datasets import Split
from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.exact import percent
from lean_mnist.generalization.solve import certified_risk
from lean_mnist.generalization.spaces.encoding import MOST_CODED_BITS, code_length
from lean_mnist.generalization.spaces.integers import IntegerNetwork
from lean_mnist.generalization.spaces.network import QuantizedLayer, QuantizedNetwork
from lean_mnist.nn.grid import check_bits, grid_of
from lean_mnist.nn.quantized import QuantizedMLP

DELTAS = (Fraction("0.035"), Fraction("1e-9"))

Layers = Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any] | None]]


def quantized_network(model: QuantizedMLP, denominator: int = 255) -> QuantizedNetwork:
    """The network that the rounded weights of ``model`` are, on features ``pixel / denominator``."""
    layers = [QuantizedLayer(codes, model.bits, *grid[:2], bias) for grid, codes, bias in model.rounded_layers()]
    return QuantizedNetwork(tuple(layers), denominator)


def quantize_layers(layers: Layers, bits: int, denominator: int = 255) -> QuantizedNetwork:
    """Round layers of float64 weights (H, D) and biases (H,) or ``None`` to a network of b-bit weights.

    The layers take ``pixel / denominator``. Every layer gets the grid of least squared error (see :func:`grid_of`). If
    some layers have biases, the others get zeros. Raises ``ArgumentError``, naming the layer, for weights or biases
    that are not finite or beyond float16.
    """
    check_bits(bits)
    biased = any(bias is not None for _, bias in layers)
    quantized = []
    for index, (weight_HD, bias) in enumerate(layers):
        bias_H = np.zeros(len(weight_HD)) if bias is None and biased else bias
        half = None if bias_H is None else _halves(bias_H, f"layers[{index}].bias")
        try:
            grid = grid_of(weight_HD, bits)
        except ArgumentError as error:
            raise ArgumentError(f"layers[{index}]: {error}") from None
        quantized.append(QuantizedLayer(grid.codes(weight_HD), bits, grid.shift, grid.scale, half))
    return QuantizedNetwork(tuple(quantized), denominator)


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is refused when it is rounded
def fold_scaling(layers: Layers, mean: float, scale: float, denominator: int = 255) -> Layers:
    """Layers that compute from ``u = pixel / denominator`` what ``layers`` compute from ``x = (pixel − μ)/s``.

    ``W x + b = (W · denominator/s) u + (b − W μ/s)``: only the first layer changes, and with μ ≠ 0 it has a bias.
    """
    weight_HD, bias_H = layers[0]
    if mean != 0:
        shifted = -weight_HD.sum(1) * (mean / scale)
        bias_H = shifted if bias_H is None else bias_H + shifted
    return [(weight_HD * (denominator / scale), bias_H), *layers[1:]]


@dataclass(frozen=True)
class TrainingClaim:
    """With confidence 1 − ``delta`` the risk is at most ``risk``, by ``bound`` with δ shared among ``2^bits``."""

    share: str  # "union" or "code length"
    bound: str
    bits: int
    delta: Fraction
    risk: Fraction

    def __str__(self) -> str:
        vacuous = self.risk > Fraction(9999, 10_000)  # 100.00 %, as it would be printed
        at_most = "nothing (vacuous)" if vacuous else f"at most {percent(self.risk, up=True)}"
        return f"{at_most} by {self.share} and {self.bound}"


@dataclass(frozen=True)
class TrainingClaims:
    """Counted in whole numbers: ``errors`` of the network in all ``examples`` that it could be learned from."""

    bits_a_weight: int
    bits: int  # of the space
    code_length: int | None  # of this network's word in an enumerative code; None above 8 bits a weight
    errors: int
    examples: int
    claims: tuple[TrainingClaim, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        about = {name: value for name, value in vars(self).items() if name != "claims"}
        return {**about, "claims": [{**vars(c), "delta": str(c.delta), "risk": str(c.risk)} for c in self.claims]}

    def __str__(self) -> str:
        coded = "" if self.code_length is None else f", {self.code_length:,} in an enumerative code"
        least = min(claim.delta for claim in self.claims)
        risks = "; ".join(str(claim) for claim in self.claims if claim.delta == least)
        return (
            f"{self.bits_a_weight} bits a weight, {self.bits:,} in all{coded}; {self.errors:,} errors in the "
            f"{self.examples:,} it could learn from; risk at δ = {float(least):g} {risks}"
        )


def training_claims(network: QuantizedNetwork, split: Split, maximum: int) -> TrainingClaims:
    """The claims that ``split``, whatever part of it taught or selected ``network``, supports.

    Form, number of bits and code of the network must not have been chosen by these examples. Each claim stands by
    itself, with its own δ. ``maximum``: the largest pixel. Raises ``BoundError``.
    """
    images, labels = split.images.cpu().numpy(), split.labels.cpu().numpy()
    errors = len(labels) - IntegerNetwork(network, maximum).correct(images, labels)
    bits = network.space.size_in_bits
    length = code_length(network) if network.space.bits <= MOST_CODED_BITS else None
    ways = [("union", "hoeffding", bits), ("union", "kl", bits)]
    ways += [] if length is None else [("code length", "kl", length)]
    claims = [
        TrainingClaim(share, bound, b, delta, certified_risk(bound, errors, len(labels), delta, b))
        for share, bound, b in ways
        for delta in DELTAS
    ]
    return TrainingClaims(network.space.bits, bits, length, errors, len(labels), tuple(claims))


def _halves(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.float16]:
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise ArgumentError(f"{name}: holds infinities or NaN, expected finite numbers")
    if values.size and np.abs(values).max() >= 65520:
        raise ArgumentError(f"{name}: {np.abs(values).max():g}, expected at most 65504 for float16")
    return np.ascontiguousarray(values.astype(np.float16))
