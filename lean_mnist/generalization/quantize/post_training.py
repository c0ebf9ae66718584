"""Quantising a network that was trained in floating point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.quantize.grid import grid_of
from lean_mnist.generalization.spaces.network import QuantizedLayer, QuantizedNetwork, check_bits

Layers = Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any] | None]]


def quantize_layers(
    layers: Layers, bits: int, *, denominator: int = 255, rule: str = "least-squares", encoding: str = "integer"
) -> QuantizedNetwork:
    """Layers of floating weights (H, D) and biases (H,) or ``None`` as a network of b-bit weights.

    The layers take ``pixel / denominator``. Every layer gets its own grid (see :func:`grid_of`); with the encoding
    ``float16`` (16 bits) weights are rounded to half precision instead. If some layers have biases, the others get
    zeros. Raises ``ArgumentError``, naming the layer, for weights or biases that are not finite or beyond float16.
    """
    check_bits(bits, encoding)
    biased = any(bias is not None for _, bias in layers)
    quantized = []
    for index, (weight, bias) in enumerate(layers):
        weight_HD = np.asarray(weight, np.float64)
        bias_H = np.zeros(len(weight_HD)) if bias is None and biased else bias
        half = None
        if bias_H is not None:
            half = _halves(np.asarray(bias_H, np.float64), f"layers[{index}].bias")
        if encoding == "float16":
            codes = _halves(weight_HD, f"layers[{index}].weight").view(np.uint16)
            quantized.append(QuantizedLayer(codes, bits, np.float16(0), np.float16(1), half, encoding))
            continue
        try:
            grid = grid_of(weight_HD, bits, rule)
        except ArgumentError as error:
            raise ArgumentError(f"layers[{index}]: {error}") from None
        quantized.append(QuantizedLayer(grid.codes(weight_HD), bits, grid.shift, grid.scale, half))
    return QuantizedNetwork(tuple(quantized), denominator)


def quantize_model(
    model: Any,
    normalization: Normalization,
    bits: int,
    *,
    maximum: int = 255,
    rule: str = "least-squares",
    encoding: str = "integer",
) -> QuantizedNetwork:
    """A ``lean_mnist.MLP`` with ReLU, and the normalisation that it was trained with, as a network on integer pixels.

    The normalisation goes into the first layer (:func:`fold_scaling`); with μ ≠ 0 the result has biases. ``per-image``
    normalisation is no affine map of the pixels, so it is refused, as is any activation but ReLU: ``ArgumentError``.
    """
    if len(model.layers) > 1 and model.activation != "relu":
        raise ArgumentError(f"model: activation {model.activation}, expected relu for exact labels by integers")
    if normalization.kind == "per-image":
        raise ArgumentError(
            "normalization: per-image, expected standard or unit, which are one affine map of all pixels"
        )
    layers: list[tuple[npt.NDArray[Any], npt.NDArray[Any] | None]] = []
    for weight, bias in model.weights_and_biases():
        weight_HD = weight.detach().double().cpu().numpy()
        layers.append((weight_HD, None if bias is None else bias.detach().double().cpu().numpy()))
    folded = fold_scaling(layers, normalization.mean, normalization.scale, maximum)
    return quantize_layers(folded, bits, denominator=maximum, rule=rule, encoding=encoding)


def fold_scaling(layers: Layers, mean: float, scale: float, denominator: int = 255) -> Layers:
    """Layers that compute from ``u = pixel / denominator`` what ``layers`` compute from ``x = (pixel − μ)/s``.

    ``W x + b = (W · denominator/s) u + (b − W μ/s)``: only the first layer changes, and with μ ≠ 0 it has a bias. So
    that a network from elsewhere, once its scaling is known, can be given to :func:`quantize_layers`.
    """
    if not layers or not np.isfinite([mean, scale]).all() or scale <= 0:
        raise ArgumentError(f"mean, scale: {mean}, {scale}, expected a finite mean, a scale above 0 and a layer")
    weight_HD, bias_H = np.asarray(layers[0][0], np.float64), layers[0][1]
    if mean != 0:
        shifted = -weight_HD.sum(1) * (mean / scale)
        bias_H = shifted if bias_H is None else bias_H + shifted
    return [(weight_HD * (denominator / scale), bias_H), *layers[1:]]


def _halves(values: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float16]:
    if not np.isfinite(values).all():
        raise ArgumentError(f"{name}: holds infinities or NaN, expected finite numbers")
    if values.size and np.abs(values).max() >= 65520:
        raise ArgumentError(f"{name}: {np.abs(values).max():g}, expected at most 65504 for float16")
    return np.ascontiguousarray(values.astype(np.float16))
