"""A small reader of the safetensors format.

A file is: the length n of the header (8 bytes, little-endian), n bytes of JSON, then the tensors' bytes. The header
maps a name to ``dtype``, ``shape`` and ``data_offsets`` (begin, end, from the end of the header); the tensors must fill
the rest of the file without gaps or overlaps. Format: https://github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import DataError
from lean_mnist.generalization.imports.files import one_line, read_bytes

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_LARGEST_HEADER = 1 << 20


def read_safetensors(path: str | Path) -> dict[str, npt.NDArray[Any]]:
    """The floating tensors of a file by their names; bfloat16 becomes float32, which holds it exactly.

    Raises ``DataError``, naming the tensor, for other dtypes, offsets that overlap, leave gaps or lie outside, and for
    anything that is no safetensors file.
    """
    content = read_bytes(path, "a safetensors file")
    if len(content) < 8:
        raise DataError(f"{path}: holds {len(content)} bytes, expected a safetensors file of at least 8")
    (size,) = struct.unpack("<Q", content[:8])
    if size > min(len(content) - 8, _LARGEST_HEADER):
        raise DataError(f"{path}: a header of {size} bytes, expected at most {min(len(content) - 8, _LARGEST_HEADER)}")
    try:
        header = json.loads(content[8 : 8 + size].decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise DataError(
            f"{path}: its header is no JSON object with distinct names, expected a safetensors file"
        ) from None
    if not isinstance(header, dict):
        raise DataError(f"{path}: its header is a {type(header).__name__}, expected names and tensors")
    header.pop("__metadata__", None)
    data, tensors, place = content[8 + size :], {}, 0
    for name, entry in sorted(header.items(), key=lambda item: _begin(item[0], item[1], path)):
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        shaped = isinstance(shape, list) and len(shape) <= 8 and all(type(n) is int and 0 <= n < 1 << 40 for n in shape)
        if not shaped:
            raise DataError(f"{path}: {name} has shape {str(shape)[:40]}, expected a list of sizes")
        if dtype not in _TYPES:
            raise DataError(f"{path}: {name} is {str(dtype)[:20]!r}, expected one of {', '.join(_TYPES)}")
        expected = math.prod(shape) * np.dtype(_TYPES[dtype]).itemsize
        if begin != place or end - begin != expected or end > len(data):
            raise DataError(f"{path}: {name} lies at {begin} to {end}, expected {place} to {place + expected}")
        values = np.frombuffer(data[begin:end], _TYPES[dtype]).reshape(shape)
        tensors[name] = (values.astype("<u4") << 16).view("<f4") if dtype == "BF16" else values
        place = end
    if place != len(data):
        raise DataError(f"{path}: {len(data) - place} bytes after the last tensor, expected none")
    return tensors


def _begin(name: str, entry: Any, path: str | Path) -> tuple[int, int]:
    offsets = (
        entry.get("data_offsets") if isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"} else 0
    )
    if not isinstance(offsets, list) or len(offsets) != 2 or any(type(n) is not int or n < 0 for n in offsets):
        raise DataError(f"{path}: {name} is {str(entry)[:40]}, expected dtype, shape and two data_offsets")
    return offsets[0], offsets[1]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = {one_line(name): value for name, value in pairs}
    if len(result) != len(pairs):
        raise ValueError
    return result
