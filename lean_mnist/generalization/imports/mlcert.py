"""MLCERT's two file formats of quantised networks (``NNCert/compile_kernel.py`` and ``compile_quantized_kernel.py``).

Both hold matrices ``(D, H)`` and ``(H, C)``, used without biases as ``relu(x W_0) W_1`` with ``x = pixel / 255``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import ArgumentError, DataError
from lean_mnist.generalization.imports.pickles import read_arrays
from lean_mnist.generalization.spaces.network import FLOAT16_BITS, QuantizedLayer, QuantizedNetwork


def read_mlcert(path: str | Path) -> QuantizedNetwork:
    """The network in one of MLCERT's pickles.

    Either a pair of float16 matrices: 16 bits, shift 0, scale 1. Or two matrices of strings of b binary digits, most
    significant first, and four float32 min0, max0, min1, max1: b bits, ``shift = min`` and
    ``scale = (max − min)/(2^b − 1)``, both rounded to float16. Raises ``DataError`` for anything else.
    """
    arrays = read_arrays(path)
    kinds = [array.dtype.kind for array in arrays]
    try:
        if kinds == ["f", "f"] and all(array.dtype.itemsize == 2 for array in arrays):
            return QuantizedNetwork(tuple(_float16_layer(matrix) for matrix in arrays))
        if kinds == ["U", "U", "f", "f", "f", "f"]:
            bounds = [_number(array, path) for array in arrays[2:]]
            return QuantizedNetwork((_coded_layer(arrays[0], *bounds[:2]), _coded_layer(arrays[1], *bounds[2:])))
    except ArgumentError as error:
        raise DataError(f"{path}: {error}") from None
    found = ", ".join(f"{array.dtype} {array.shape}" for array in arrays) or "nothing"
    raise DataError(f"{path}: holds {found}, expected two float16 matrices, or two of bits and four bounds")


def _float16_layer(matrix_DH: npt.NDArray[Any]) -> QuantizedLayer:
    codes = np.ascontiguousarray(matrix_DH.T.astype(np.float16)).view(np.uint16)
    return QuantizedLayer(codes, FLOAT16_BITS, np.float16(0), np.float16(1), None, "float16")


def _coded_layer(words_DH: npt.NDArray[Any], low: np.float32, high: np.float32) -> QuantizedLayer:
    width = words_DH.dtype.itemsize // 4
    if not low < high:
        raise ArgumentError(f"bounds {low} and {high}, expected the first to be smaller")
    codes = np.zeros(words_DH.T.shape, np.uint16)
    for place, word in np.ndenumerate(words_DH.T):
        if not word or set(word) - {"0", "1"}:
            raise ArgumentError(f"{str(word)[:16]!r} in a matrix, expected up to {width} binary digits")
        codes[place] = int(word, 2)
    scale = (high - low) / np.float32(2**width - 1)
    return QuantizedLayer(codes, width, np.float16(low), np.float16(scale))


def _number(array: npt.NDArray[Any], path: str | Path) -> np.float32:
    if array.shape != () or not np.isfinite(array):
        raise DataError(f"{path}: bound {array!r}, expected a finite number")
    return np.float32(array)
