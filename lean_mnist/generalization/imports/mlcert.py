"""MLCERT's two file formats of quantised networks (``NNCert/compile_kernel.py`` and ``compile_quantized_kernel.py``).

Both hold two matrices ``(D, H)`` and ``(H, C)``, used as ``relu(x W_0) W_1`` with ``x = pixel / 255`` and without
biases.
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
    try:
        if len(arrays) == 2 and all(array.dtype.kind == "f" and array.dtype.itemsize == 2 for array in arrays):
            return QuantizedNetwork(tuple(_float16_layer(array, index, path) for index, array in enumerate(arrays)))
        if len(arrays) == 6 and all(array.dtype.kind == "U" for array in arrays[:2]):
            bounds = [_number(array, path) for array in arrays[2:]]
            layers = (_coded_layer(arrays[0], bounds[:2], 0, path), _coded_layer(arrays[1], bounds[2:], 1, path))
            return QuantizedNetwork(layers)
    except ArgumentError as error:
        raise DataError(f"{path}: {error}") from None
    found = ", ".join(f"{array.dtype} {array.shape}" for array in arrays)
    raise DataError(
        f"{path}: holds {found or 'nothing'}, expected two float16 matrices, or two of bits and four bounds"
    )


def _float16_layer(matrix_DH: npt.NDArray[Any], index: int, path: str | Path) -> QuantizedLayer:
    _check_matrix(matrix_DH, index, path)
    codes = np.ascontiguousarray(matrix_DH.T.astype(np.float16)).view(np.uint16)
    return QuantizedLayer(codes, FLOAT16_BITS, np.float16(0), np.float16(1), None, "float16")


def _coded_layer(words_DH: npt.NDArray[Any], bounds: list[np.float32], index: int, path: str | Path) -> QuantizedLayer:
    _check_matrix(words_DH, index, path)
    width = words_DH.dtype.itemsize // 4
    low, high = bounds
    if not low < high:
        raise DataError(f"{path}: bounds {low} and {high} of matrix {index}, expected the first to be smaller")
    codes = np.zeros(words_DH.T.shape, np.uint16)
    for place, word in np.ndenumerate(words_DH.T):
        if not word or set(word) - {"0", "1"}:
            raise DataError(f"{path}: {str(word)[:16]!r} in matrix {index}, expected up to {width} binary digits")
        codes[place] = int(word, 2)
    scale = (high - low) / np.float32(2**width - 1)
    return QuantizedLayer(codes, width, np.float16(low), np.float16(scale))


def _check_matrix(matrix: npt.NDArray[Any], index: int, path: str | Path) -> None:
    if matrix.ndim != 2 or matrix.size == 0:
        raise DataError(f"{path}: matrix {index} has shape {matrix.shape}, expected two dimensions")


def _number(array: npt.NDArray[Any], path: str | Path) -> np.float32:
    if array.shape != () or array.dtype.kind != "f" or not np.isfinite(array):
        raise DataError(f"{path}: bound {array!r}, expected a finite number")
    return np.float32(array)
