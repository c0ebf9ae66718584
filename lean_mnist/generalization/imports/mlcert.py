"""MLCERT's two file formats of quantised networks (``NNCert/compile_kernel.py`` and ``compile_quantized_kernel.py``).

Both hold matrices ``(D, H)`` and ``(H, C)``, used without biases as ``relu(x W_0) W_1`` with ``x = pixel / 255``.

A pickle is a program. This one is never run: its opcodes are walked, and the names that it mentions are compared with
four expected ones and turned into plain records here. Nothing is imported, called or constructed on its behalf.
"""

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import ArgumentError, DataError
from lean_mnist.generalization.spaces.network import FLOAT16_BITS, QuantizedLayer, QuantizedNetwork
from lean_mnist.reading.files import read_bytes
from lean_mnist.reading.pickles import Refused, walk_pickle
from lean_mnist.reading.text import printable, shown


@np.errstate(over="ignore", invalid="ignore")  # an infinity is refused
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
        raise DataError(f"{shown(path)}: {error}") from None
    found = ", ".join(f"{array.dtype} {array.shape}" for array in arrays) or "nothing"
    raise DataError(f"{shown(path)}: holds {found}, expected two float16 matrices, or two of bits and four bounds")


def _float16_layer(matrix_DH: npt.NDArray[Any]) -> QuantizedLayer:
    codes = np.ascontiguousarray(matrix_DH.T.astype(np.float16)).view(np.uint16)
    return QuantizedLayer(codes, FLOAT16_BITS, np.float16(0), np.float16(1), None, "float16")


def _coded_layer(words_DH: npt.NDArray[Any], low: np.float32, high: np.float32) -> QuantizedLayer:
    width = words_DH.dtype.itemsize // 4
    if not low < high:
        raise ArgumentError(f"bounds {low} and {high}, expected the first to be smaller")
    words = words_DH.ravel().tolist()
    if wrong := [word for word in words if not _WORD.fullmatch(word)]:
        raise ArgumentError(f"{printable(wrong[0])!r} in a matrix, expected up to {width} binary digits")
    codes = np.array([int(word, 2) for word in words], np.uint16).reshape(words_DH.shape)
    scale = (high - low) / np.float32(2**width - 1)
    return QuantizedLayer(np.ascontiguousarray(codes.T), width, np.float16(low), np.float16(scale))


def _number(array: npt.NDArray[Any], path: str | Path) -> np.float32:
    if array.shape != () or not np.isfinite(array):
        raise DataError(f"{shown(path)}: bound {array!r}, expected a finite number")
    return np.float32(array)


_WHAT = "a pickle of NumPy arrays"
_LARGEST_FILE = 1 << 24  # bytes, unpacked
_MOST_PARTS = 1000  # some sixty are needed
_WORD = re.compile("[01]+")
_TYPES = re.compile(r"f[248]|U([1-9]|1[0-6])")


class _Name(Enum):
    """The names in a pickle of arrays."""

    RECONSTRUCT = "numpy.core.multiarray _reconstruct"
    SCALAR = "numpy.core.multiarray scalar"
    ARRAY = "numpy ndarray"
    DTYPE = "numpy dtype"


@dataclass
class _DType:
    """A dtype that was named but not built: ``f2``, ``f4``, ``f8`` or ``U1`` … ``U16``, and its byte order."""

    name: str
    order: str = "<"


@dataclass
class _Array:
    """An array that was announced and perhaps filled."""

    value: npt.NDArray[Any] | None = None


def read_arrays(path: str | Path) -> list[npt.NDArray[Any]]:
    """The arrays and numbers (as 0-dimensional arrays) of a pickled tuple; gzip if the name ends in ``.gz``.

    Floats of 2, 4 or 8 bytes and strings of up to 16 characters, of at most 2 dimensions, in a file of at most 16 MiB.
    Raises ``DataError``, naming the opcode or the object, for anything else.
    """
    content = read_bytes(path, _WHAT, largest=_LARGEST_FILE, packed=str(path).endswith(".gz"))
    try:
        result = walk_pickle(content, _ArrayMeaning(), _MOST_PARTS)
        if not isinstance(result, tuple):
            raise Refused(f"holds a single {type(result).__name__.strip('_')}")
        return [_finished(item) for item in result]
    except Refused as reason:
        raise DataError(f"{shown(path)}: refused, {reason}; expected {_WHAT}, and nothing in it was run") from None


class _ArrayMeaning:
    """Records for the names and calls in a pickle of arrays, never NumPy's own."""

    def named(self, name: str) -> _Name:
        """The one of the four expected names that it is."""
        try:
            return _Name(name.replace("numpy._core", "numpy.core"))
        except ValueError:
            raise Refused(f"it names {printable(name.replace(' ', '.'))!r}") from None

    def called(self, function: Any, arguments: tuple[Any, ...]) -> _Array | _DType:
        """An empty array, a number, or a dtype."""
        if function is _Name.RECONSTRUCT and arguments == (_Name.ARRAY, (0,), b"b"):
            return _Array()
        if function is _Name.DTYPE and len(arguments) == 3 and isinstance(arguments[0], str):
            if not _TYPES.fullmatch(arguments[0]):
                raise Refused(f"it holds numbers of type {printable(arguments[0], 20)!r}")
            return _DType(arguments[0])
        if function is _Name.SCALAR and len(arguments) == 2:
            array = _Array()
            _fill(array, (), *arguments)
            return array
        raise Refused("it calls something")

    def built(self, target: Any, state: Any) -> None:
        """Put content into an array, or a byte order into a dtype."""
        if isinstance(target, _DType) and isinstance(state, tuple) and len(state) == 8:
            version, order, subtype, names, fields, *_ = state
            if version != 3 or order not in ("<", ">", "|") or (subtype, names, fields) != (None, None, None):
                raise Refused("it holds a compound type")
            target.order = order
        elif isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
            version, shape, dtype, fortran, content = state
            if version != 1 or fortran is not False:
                raise Refused("it holds an array in column order")
            _fill(target, shape, dtype, content)
        else:
            raise Refused("it builds something")

    def persistent(self, identity: Any) -> Any:
        """Nothing lies outside of the pickle."""
        raise Refused("it names something outside of it")


def _fill(array: _Array, shape: Any, dtype: Any, content: Any) -> None:
    plain = isinstance(shape, tuple) and len(shape) <= 2 and all(type(n) is int and 0 <= n < 1 << 31 for n in shape)
    if not plain or not isinstance(dtype, _DType) or not isinstance(content, bytes):
        raise Refused("it holds something else than an array of numbers or strings")
    own = np.dtype(dtype.order + dtype.name)
    expected = int(np.prod(shape, dtype=object)) * own.itemsize
    if len(content) != expected:
        raise Refused(f"an array of {shape} {own} has {len(content)} bytes and not {expected}")
    if own.kind == "U" and len(content) and int(np.frombuffer(content, own.byteorder + "u4").max()) > 0x10FFFF:
        raise Refused("it holds something that is no character")
    array.value = np.frombuffer(content, own).reshape(shape)


def _finished(item: Any) -> npt.NDArray[Any]:
    if not isinstance(item, _Array) or item.value is None:
        raise Refused(f"it holds a {type(item).__name__.strip('_')}")
    return item.value
