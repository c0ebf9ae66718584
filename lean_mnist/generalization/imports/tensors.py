"""Files of named tensors: safetensors, and what ``torch.save`` writes. Nothing in them is run.

Format: https://huggingface.co/docs/safetensors, "Format".
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from lean_mnist.errors import DataError
from lean_mnist.reading.archive import read_archive
from lean_mnist.reading.files import LARGEST, opened
from lean_mnist.reading.json import each_once
from lean_mnist.reading.text import escaped, printable, shown

_INSIDE = ("model", "state_dict", "model_state_dict")
_LARGEST_HEADER = 1 << 20  # bytes
_LONGEST_NAME = 200
_DTYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    """A tensor in the header of a safetensors file."""

    dtype: str
    shape: Annotated[tuple[_Count, ...], msgspec.Meta(max_length=8)]
    data_offsets: tuple[_Count, _Count]


class Tensors(NamedTuple):
    """The tensors of a safetensors file by their names, and what its metadata say."""

    arrays: dict[str, npt.NDArray[Any]]
    metadata: dict[str, str]


def read_safetensors(path: str | Path) -> Tensors:
    """The floating tensors of a safetensors file by their names: float16, float32 or float64, bfloat16 as float32.

    The header has at most 1 MiB, the file at most 256 MiB, and the tensors fill it without gaps. Raises ``DataError``
    for other dtypes and for anything that is no such file.
    """
    what, name = "a safetensors file", shown(path)
    with opened(path, what) as (file, size):
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LARGEST_HEADER):
            most = min(max(size - 8, 0), _LARGEST_HEADER)
            raise DataError(f"{name}: damaged, announces a header of {length:,} bytes, expected at most {most:,}")
        try:
            entries, metadata = _entries(file.read(length))
        except (ValueError, RecursionError) as fault:  # msgspec's ValidationError is a ValueError
            raise DataError(f"{name}: damaged (header: {printable(fault, 100)}), expected {what}") from None
        if size > LARGEST:
            raise DataError(f"{name}: {size:,} bytes, expected {what} of at most {LARGEST:,}")
        arrays, end = {}, 0
        for key, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
            if entry.dtype not in _DTYPES:
                raise DataError(f"{name}: {_named(key)} is {printable(entry.dtype, 20)}, expected floating weights")
            dtype, start = np.dtype(_DTYPES[entry.dtype]), end
            end += math.prod(entry.shape) * dtype.itemsize
            if entry.data_offsets != (start, end) or 8 + length + end > size:
                raise DataError(f"{name}: damaged, {_named(key)} does not lie where its shape and others leave it")
            array = np.frombuffer(file.read(end - start), dtype).reshape(entry.shape)
            if entry.dtype == "BF16":
                array = (array.astype(np.uint32) << 16).view(np.float32)
            arrays[_named(key)] = array
        if 8 + length + end != size:
            raise DataError(f"{name}: damaged, {size:,} bytes, expected {8 + length + end:,} for its tensors")
    return Tensors(arrays, metadata)


def _entries(text: bytes) -> tuple[dict[str, _Entry], dict[str, str]]:
    values = json.loads(text.decode(), object_pairs_hook=each_once)
    if not isinstance(values, dict):
        raise ValueError("expected an object")
    metadata = msgspec.convert(values.pop("__metadata__", {}), dict[str, str])
    return msgspec.convert(values, dict[Annotated[str, msgspec.Meta(max_length=_LONGEST_NAME)], _Entry]), metadata


def read_state_dict(path: str | Path) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a file of ``torch.save``, in its order and of dtypes as :func:`read_safetensors` has them.

    It may be the ``state_dict`` itself or a dictionary that has it as ``model``, ``state_dict`` or ``model_state_dict``
    (a checkpoint of ours, too). Raises ``DataError``.
    """
    content, name = load_dictionary(path), shown(path)
    architecture = content.get("architecture")
    activation = architecture.get("activation", "relu") if isinstance(architecture, dict) else "relu"
    if not isinstance(activation, str) or activation != "relu":
        raise DataError(f"{name}: a network with {printable(repr(activation), 40)}, expected relu")
    inside = (content[key] for key in _INSIDE if isinstance(content.get(key), dict))
    named: Mapping[Any, Any] = next(inside, content)
    if not named:
        raise DataError(f"{name}: holds no named tensors, expected a state_dict")
    arrays = {}
    for key, tensor in named.items():
        if not isinstance(tensor, torch.Tensor) or not isinstance(key, str) or len(key) > _LONGEST_NAME:
            raise DataError(f"{name}: {_named(key)[:60]!r} is a {type(tensor).__name__}, expected a dense tensor")
        if tensor.dtype not in _FLOATING:
            raise DataError(f"{name}: {_named(key)} is {tensor.dtype}, expected floating weights of dense layers")
        arrays[_named(key)] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return arrays


def load_dictionary(path: str | Path) -> dict[Any, Any]:
    """The dictionary in a file of ``torch.save``; ``DataError`` if it is none or holds more than plain values."""
    loaded = read_archive(path, "a checkpoint or a state_dict", DataError)
    if not isinstance(loaded, dict):
        raise DataError(f"{shown(path)}: holds no named tensors, expected a state_dict")
    return loaded


def _named(key: object) -> str:
    return escaped(str(key))
