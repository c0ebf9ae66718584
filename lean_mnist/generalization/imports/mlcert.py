"""MLCERT's two file formats of quantised networks (``NNCert/compile_kernel.py`` and ``compile_quantized_kernel.py``).

Both hold matrices ``(D, H)`` and ``(H, C)``, used without biases as ``relu(x W_0) W_1`` with ``x = pixel / 255``.

A pickle is a program. This one is never run: its opcodes are walked, only those that two arrays need are known, and the
names that it mentions are compared with four expected ones and turned into plain records here. Nothing is imported,
called or constructed on its behalf, so the worst that a hostile file can do is to be refused.
"""

from __future__ import annotations

import pickletools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import ArgumentError, DataError
from lean_mnist.generalization.spaces.network import FLOAT16_BITS, QuantizedLayer, QuantizedNetwork
from lean_mnist.reading.files import read_bytes


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


_WHAT = "a pickle of NumPy arrays"
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NAMES = {
    **{f"{module} _reconstruct": "reconstruct" for module in _MODULES},
    **{f"{module} scalar": "scalar" for module in _MODULES},
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
}
_TYPES = re.compile(r"f[248]|U([1-9]|1[0-6])")
_MARK = object()


class _Refused(Exception):
    """Why a pickle was refused."""


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

    Floats of 2, 4 or 8 bytes and strings of up to 16 characters, of at most 2 dimensions. Raises ``DataError``, one
    line that names the opcode or the object, for anything else; nothing in the file is ever run.
    """
    content = read_bytes(path, _WHAT, packed=str(path).endswith(".gz"))
    try:
        result = _walk(content)
        if not isinstance(result, tuple):
            raise _Refused(f"holds a single {type(result).__name__.strip('_')}")
        return [_finished(item) for item in result]
    except _Refused as reason:
        raise DataError(f"{path}: refused, {reason}; expected {_WHAT}, and nothing in it was run") from None


def _walk(content: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, place in pickletools.genops(content):
            if opcode.name == "STOP":
                if len(stack) != 1 or place != len(content) - 1:
                    raise _Refused("it ends early or leaves something behind")
                return stack[0]
            _step(opcode.name, argument, stack, memo)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise _Refused(f"damaged ({type(error).__name__})") from None
    raise _Refused("damaged")


def _step(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    if name in ("BININT", "BININT1", "BININT2", "BINUNICODE", "BINBYTES", "SHORT_BINBYTES"):
        stack.append(argument)
    elif name == "NONE":
        stack.append(None)
    elif name in ("NEWFALSE", "NEWTRUE"):
        stack.append(name == "NEWTRUE")
    elif name == "MARK":
        stack.append(_MARK)
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"):
        size = int(name[-1]) if name != "TUPLE" else _above_mark(stack)
        if size > len(stack):
            raise IndexError
        items = tuple(stack[len(stack) - size :])
        del stack[len(stack) - size - (name == "TUPLE") :]
        stack.append(items)
    elif name == "BINPUT":
        memo[argument] = stack[-1]
    elif name == "BINGET":
        stack.append(memo[argument])
    elif name == "GLOBAL":
        if argument not in _NAMES:
            raise _Refused(f"it names {argument.replace(' ', '.')!r}")
        stack.append(_NAMES[argument])
    elif name == "REDUCE":
        arguments, called = stack.pop(), stack.pop()
        stack.append(_reduced(called, arguments))
    elif name == "BUILD":
        state, target = stack.pop(), stack[-1]
        _build(target, state)
    elif name != "PROTO":
        raise _Refused(f"it holds the opcode {name}")


def _above_mark(stack: list[Any]) -> int:
    for size, item in enumerate(reversed(stack)):
        if item is _MARK:
            return size
    raise IndexError


def _reduced(called: Any, arguments: Any) -> Any:
    if called == "reconstruct" and arguments == ("ndarray", (0,), b"b"):
        return _Array()
    if called == "dtype" and isinstance(arguments, tuple) and len(arguments) == 3 and isinstance(arguments[0], str):
        if not _TYPES.fullmatch(arguments[0]):
            raise _Refused(f"it holds numbers of type {arguments[0][:20]!r}")
        return _DType(arguments[0])
    if called == "scalar" and isinstance(arguments, tuple) and len(arguments) == 2:
        array = _Array()
        _fill(array, (), *arguments)
        return array
    raise _Refused("it calls something")


def _build(target: Any, state: Any) -> None:
    if isinstance(target, _DType) and isinstance(state, tuple) and len(state) == 8:
        version, order, subtype, names, fields, *_ = state
        if version != 3 or order not in ("<", ">", "|") or (subtype, names, fields) != (None, None, None):
            raise _Refused("it holds a compound type")
        target.order = order
    elif isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
        version, shape, dtype, fortran, content = state
        if version != 1 or fortran is not False:
            raise _Refused("it holds an array in column order")
        _fill(target, shape, dtype, content)
    else:
        raise _Refused("it builds something")


def _fill(array: _Array, shape: Any, dtype: Any, content: Any) -> None:
    plain = isinstance(shape, tuple) and len(shape) <= 2 and all(type(n) is int and 0 <= n < 1 << 31 for n in shape)
    if not plain or not isinstance(dtype, _DType) or not isinstance(content, bytes):
        raise _Refused("it holds something else than an array of numbers or strings")
    own = np.dtype(dtype.order + dtype.name)
    expected = int(np.prod(shape, dtype=object)) * own.itemsize
    if len(content) != expected:
        raise _Refused(f"an array of {shape} {own} has {len(content)} bytes and not {expected}")
    if own.kind == "U" and len(content) and int(np.frombuffer(content, own.byteorder + "u4").max()) > 0x10FFFF:
        raise _Refused("it holds something that is no character")
    array.value = np.frombuffer(content, own).reshape(shape)


def _finished(item: Any) -> npt.NDArray[Any]:
    if not isinstance(item, _Array) or item.value is None:
        raise _Refused(f"it holds a {type(item).__name__.strip('_')}")
    return item.value
