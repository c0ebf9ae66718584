"""Evaluation of quantised networks in exact integers: the same labels on every machine, threads and libraries.

With pixels ``p`` and weights ``w·2^−e``, layer by layer, ``z = Σ_d w_d h_d + bias`` is an exact integer once everything
is brought to a common denominator; ReLU and argmax do not see a positive factor. Nothing is rounded, so no order of
summation matters. Products are bounded beforehand. Where no sum passes 2^53 they run in float64, which holds all whole
numbers so far, and rounds none of them; else in int64, or, where that does not hold them, in FLINT's integers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.spaces.network import QuantizedNetwork

_INT64 = (1 << 63) - 1
_FLOAT64 = 1 << 53
_CHUNK = 2048

Integers = npt.NDArray[Any]  # int64, or Python integers in an object array


@dataclass(frozen=True, eq=False)
class _IntegerLayer:
    weight_DH: npt.NDArray[Any]  # int64, or Python integers where they do not fit
    bias_H: npt.NDArray[Any] | None  # Python integers, at the scale of this layer's sums
    bound: int  # of the magnitude of its sums, before ReLU


class IntegerNetwork:
    """A quantised network in exact integer arithmetic: logits and labels of uint8 pixels."""

    def __init__(self, network: QuantizedNetwork, maximum: int = 255) -> None:
        """``maximum``: the largest pixel; a larger one is refused when it comes."""
        self.maximum, self.features = maximum, network.space.sizes[0]
        self.layers: list[_IntegerLayer] = []
        # h is an integer times 2^−exponent / denominator; the pixels are so with exponent 0.
        largest, exponent = maximum, 0
        for layer in network.layers:
            weight_HD, bias_H, own = layer.integers()
            most = int(np.abs(weight_HD).max())
            weight_HD = weight_HD.astype(object if most * weight_HD.shape[1] > _INT64 else weight_HD.dtype, copy=False)
            sums = np.abs(weight_HD).sum(1).astype(object) * largest
            if bias_H is not None:
                bias_H = (bias_H << exponent) * network.denominator
                sums = sums + np.abs(bias_H)
            largest, exponent = int(sums.max()), exponent + own
            weight_DH = weight_HD.T
            if most <= _INT64:
                weight_DH = np.ascontiguousarray(weight_DH.astype(np.int64))
            self.layers.append(_IntegerLayer(weight_DH, bias_H, largest))
        self.exponent = exponent

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """The logits times ``denominator · 2^exponent``, integers (B, C), of images uint8 (B, D) or (B, rows, columns).

        Raises ``ArgumentError`` for another dtype or number of pixels, or a pixel above ``maximum``.
        """
        if images.dtype != np.uint8:
            raise ArgumentError(f"images: {images.dtype}, expected uint8")
        pixels_BD = images.reshape(len(images), -1) if len(images) else images.reshape(0, self.features)
        if pixels_BD.shape[1] != self.features:
            raise ArgumentError(f"images: {pixels_BD.shape[1]} pixels each, expected {self.features}")
        if pixels_BD.size and int(pixels_BD.max()) > self.maximum:
            raise ArgumentError(f"images: a pixel of {int(pixels_BD.max())}, expected at most {self.maximum}")
        parts = [self._chunk(pixels_BD[start : start + _CHUNK]) for start in range(0, max(1, len(images)), _CHUNK)]
        return np.concatenate(parts)

    def labels(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """The smallest index of a largest logit, int64 (B,)."""
        return self.logits(images).argmax(1)

    def correct(self, images: npt.NDArray[np.uint8], labels_m: npt.NDArray[np.int64]) -> int:
        """Number of images that get their label, int64 (B,); one outside the classes is never right."""
        if labels_m.shape != (len(images),):
            raise ArgumentError(f"labels: shape {labels_m.shape}, expected ({len(images)},), one an image")
        return int((self.labels(images) == labels_m).sum())

    def _chunk(self, pixels_BD: npt.NDArray[np.uint8]) -> Integers:
        h = pixels_BD.astype(np.int64)
        for layer in self.layers:
            h = _product(np.maximum(h, 0), layer)  # pixels are not negative
            if layer.bias_H is not None:
                h = h + layer.bias_H.astype(h.dtype)
        return h


def _product(h_BD: Integers, layer: _IntegerLayer) -> Integers:
    """``h W`` exactly: float64 or int64 where the sums fit, else Python integers."""
    weight_DH = layer.weight_DH
    if layer.bound <= _INT64 and h_BD.dtype == weight_DH.dtype == np.int64:
        if layer.bound > _FLOAT64:
            return h_BD @ weight_DH
        # Every product and every sum of some of them is a whole number that float64 holds, so none is rounded.
        return (h_BD.astype(np.float64) @ weight_DH.astype(np.float64)).astype(np.int64)
    import flint  # here, because most networks do without

    h, weight = (flint.fmpz_mat(len(array), array.shape[1], array.ravel().tolist()) for array in (h_BD, weight_DH))
    return np.array([int(z) for z in (h * weight).entries()], dtype=object).reshape(h.nrows(), weight.ncols())
