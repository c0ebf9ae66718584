"""Networks of few bits as members of a finite space: trained with rounded weights, or rounded after training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.spaces.network import QuantizedLayer, QuantizedNetwork, check_bits
from lean_mnist.nn import MLP
from lean_mnist.nn.grid import grid_of
from lean_mnist.nn.quantized import QuantizedMLP

Layers = Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any] | None]]


def quantized_network(model: QuantizedMLP, denominator: int = 255) -> QuantizedNetwork:
    """The network that the rounded weights of ``model`` are, on features ``pixel / denominator``."""
    layers = [QuantizedLayer(codes, model.bits, *grid[:2], bias) for grid, codes, bias in model.rounded_layers()]
    return QuantizedNetwork(tuple(layers), denominator)


def quantize_model(
    model: MLP, normalization: Normalization, bits: int, *, maximum: int = 255, encoding: str = "integer"
) -> QuantizedNetwork:
    """Round a trained MLP with ReLU, together with its normalisation, to a network on integer pixels.

    The normalisation goes into the first layer (:func:`fold_scaling`); with μ ≠ 0 the result has biases. ``per-image``
    normalisation is no affine map of the pixels, so it is refused, as is any activation but ReLU: ``ArgumentError``.
    ``maximum`` is the largest pixel; ``encoding`` as of :func:`quantize_layers`.
    """
    if len(model.layers) > 1 and model.activation != "relu":
        raise ArgumentError(f"model: activation {model.activation}, expected relu for exact labels by integers")
    if normalization.kind == "per-image":
        raise ArgumentError(
            "normalization: per-image, expected standard or unit, which are one affine map of all pixels"
        )
    layers = [
        (weight.detach().double().cpu().numpy(), None if bias is None else bias.detach().double().cpu().numpy())
        for weight, bias in model.weights_and_biases()
    ]
    folded = fold_scaling(layers, normalization.mean, normalization.scale, maximum)
    return quantize_layers(folded, bits, denominator=maximum, encoding=encoding)


def quantize_layers(
    layers: Layers, bits: int, *, denominator: int = 255, encoding: str = "integer"
) -> QuantizedNetwork:
    """Round layers of floating weights (H, D) and biases (H,) or ``None`` to a network of b-bit weights.

    The layers take ``pixel / denominator``. Every layer gets the grid of least squared error (see :func:`grid_of`);
    with the encoding ``float16`` (16 bits) weights are rounded to half precision instead. If some layers have biases,
    the others get zeros. Raises ``ArgumentError``, naming the layer, for weights or biases that are not finite or
    beyond float16.
    """
    check_bits(bits, encoding)
    biased = any(bias is not None for _, bias in layers)
    quantized = []
    for index, (weight, bias) in enumerate(layers):
        weight_HD = np.asarray(weight, np.float64)
        bias_H = np.zeros(len(weight_HD)) if bias is None and biased else bias
        half = None if bias_H is None else _halves(bias_H, f"layers[{index}].bias")
        if encoding == "float16":
            codes = _halves(weight_HD, f"layers[{index}].weight").view(np.uint16)
            shift, scale = np.float16(0), np.float16(1)
        else:
            try:
                grid = grid_of(weight_HD, bits)
            except ArgumentError as error:
                raise ArgumentError(f"layers[{index}]: {error}") from None
            codes, shift, scale = grid.codes(weight_HD), grid.shift, grid.scale
        quantized.append(QuantizedLayer(codes, bits, shift, scale, half, encoding))
    return QuantizedNetwork(tuple(quantized), denominator)


def fold_scaling(layers: Layers, mean: float, scale: float, denominator: int = 255) -> Layers:
    """Layers that compute from ``u = pixel / denominator`` what ``layers`` compute from ``x = (pixel − μ)/s``.

    ``W x + b = (W · denominator/s) u + (b − W μ/s)``: only the first layer changes, and with μ ≠ 0 it has a bias.
    Raises ``ArgumentError`` unless μ is finite, s finite and above 0, and there is a layer.
    """
    if not layers or not np.isfinite([mean, scale]).all() or scale <= 0:
        raise ArgumentError(f"mean, scale: {mean}, {scale}, expected a finite mean, a scale above 0 and a layer")
    weight_HD, bias_H = np.asarray(layers[0][0], np.float64), layers[0][1]
    if mean != 0:
        shifted = -weight_HD.sum(1) * (mean / scale)
        bias_H = shifted if bias_H is None else bias_H + shifted
    return [(weight_HD * (denominator / scale), bias_H), *layers[1:]]


def _halves(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.float16]:
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise ArgumentError(f"{name}: holds infinities or NaN, expected finite numbers")
    if values.size and np.abs(values).max() >= 65520:
        raise ArgumentError(f"{name}: {np.abs(values).max():g}, expected at most 65504 for float16")
    return np.ascontiguousarray(values.astype(np.float16))
