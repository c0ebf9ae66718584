"""A strict reader of IDX files, the format of MNIST and its relatives.

An IDX file is: two zero bytes, a type code, the number of dimensions (these four bytes are "the magic"), one big-endian
32-bit size per dimension, then the values, and nothing after them. A gzip file is known by its content, not its name.

Format: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", section "File formats".
"""

from __future__ import annotations

import gzip
import math
import os
import stat
import struct
import zlib
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import DataError
from lean_mnist.reading.text import shown

PathLike = str | os.PathLike[str]

IMAGES_MAGIC = 2051  # 0x0803: uint8, three dimensions
LABELS_MAGIC = 2049  # 0x0801: uint8, one dimension
QMNIST_LABELS_MAGIC = 3074  # 0x0C02: int32, two dimensions
QMNIST_COLUMNS = 8

_TYPES: dict[int, np.dtype[Any]] = {0x08: np.dtype(np.uint8), 0x0C: np.dtype(">i4")}
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20


def read_idx(path: PathLike) -> npt.NDArray[Any]:
    """Read one IDX file, raw or gzip, of type uint8 (0x08) or int32 (0x0C).

    Returns a writable array of the shape in the file's header, uint8 or native int32.
    Raises :class:`DataError` if the file is missing, unreadable, no IDX file, of another type, has a dimension of size
    zero, is a damaged gzip file, or holds fewer or more bytes than its header declares.
    """
    name = shown(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would block, a folder would fail with a riddle
            kind = "a folder" if os.path.isdir(path) else "not a regular file"
            raise DataError(f"{name}: is {kind}, expected an IDX file")
        with open(path, "rb") as file:
            if file.read(2) != _GZIP_MAGIC:
                file.seek(0)
                return _parse(file, name)
            file.seek(0)
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _parse(unpacked, name)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:  # BadGzipFile is an OSError: it has to come first
        raise DataError(f"{name}: damaged gzip file ({error}), expected a complete one") from error
    except FileNotFoundError as error:
        raise DataError(f"{name}: file not found, expected an IDX file") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error}), expected an IDX file") from error


def _parse(file: BinaryIO | gzip.GzipFile, name: str) -> npt.NDArray[Any]:
    magic = file.read(4)
    if len(magic) < 4:
        raise DataError(f"{name}: holds {len(magic)} bytes, expected an IDX header of at least 8")
    zero, type_code, dimensions = struct.unpack(">HBB", magic)
    if zero != 0:
        raise DataError(
            f"{name}: starts with the bytes {magic.hex(' ')}, expected an IDX file, which starts with 00 00"
        )
    if type_code not in _TYPES:
        raise DataError(f"{name}: type code 0x{type_code:02x}, expected 0x08 (uint8) or 0x0c (int32)")
    if dimensions == 0:
        raise DataError(f"{name}: declares 0 dimensions, expected at least 1")

    header_bytes = 4 + 4 * dimensions
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise DataError(f"{name}: truncated, holds {4 + len(sizes)} bytes, its header alone needs {header_bytes}")
    shape = struct.unpack(f">{dimensions}I", sizes)
    if 0 in shape:
        raise DataError(f"{name}: dimension {shape.index(0)} has size 0 (shape {_times(shape)}), expected at least 1")

    dtype = _TYPES[type_code]
    declared = math.prod(shape) * dtype.itemsize
    # Grows with what is really there, so that a header which declares an absurd size costs nothing.
    content = bytearray()
    while len(content) < declared and (chunk := file.read(min(_CHUNK, declared - len(content)))):
        content += chunk
    trailing = 0
    while chunk := file.read(_CHUNK):  # to the very end, which also makes gzip verify its checksum
        trailing += len(chunk)

    if len(content) < declared or trailing:
        fault = "trailing bytes" if trailing else "truncated"
        found, expected = header_bytes + len(content) + trailing, header_bytes + declared
        raise DataError(f"{name}: {fault}, holds {found} bytes, expected {expected} for shape {_times(shape)}")
    values = np.frombuffer(content, dtype=dtype).reshape(shape)
    return values if values.dtype == np.uint8 else values.astype(np.int32)


def read_images(path: PathLike) -> npt.NDArray[np.uint8]:
    """Read an IDX file of images (magic 2051): uint8 (m, rows, columns).

    Raises :class:`DataError` as :func:`read_idx` does, and when the file holds anything else, labels for instance.
    """
    array = read_idx(path)
    magic = _magic(array)
    if magic != IMAGES_MAGIC:
        raise DataError(f"{shown(path)}: holds {_describe(magic)}, expected images (magic {IMAGES_MAGIC})")
    return array


def read_labels(path: PathLike, classes: int = 10) -> npt.NDArray[np.int64]:
    """Read an IDX file of labels: int64 (m,), every value in 0..classes-1.

    Either plain labels (magic 2049), or QMNIST's extended ones (magic 3074, int32 (m, 8)), whose first column is the
    label. Raises :class:`DataError` as :func:`read_idx` does, when the file holds anything else, and when a label is
    out of range; then it names the first such index and its value.
    """
    array = read_idx(path)
    magic = _magic(array)
    if magic == QMNIST_LABELS_MAGIC:
        if array.shape[1] != QMNIST_COLUMNS:
            raise DataError(f"{shown(path)}: {array.shape[1]} columns of labels, expected {QMNIST_COLUMNS} (QMNIST)")
        array = array[:, 0]
    elif magic != LABELS_MAGIC:
        raise DataError(f"{shown(path)}: holds {_describe(magic)}, expected labels (magic {LABELS_MAGIC})")
    wrong = (array < 0) | (array >= classes)
    if wrong.any():
        index = int(wrong.argmax())
        raise DataError(f"{shown(path)}: label {int(array[index])} at index {index}, expected 0 to {classes - 1}")
    return array.astype(np.int64)


def _magic(array: npt.NDArray[Any]) -> int:
    return (0x08 if array.dtype == np.uint8 else 0x0C) << 8 | array.ndim


def _describe(magic: int) -> str:
    what = {IMAGES_MAGIC: "images", LABELS_MAGIC: "labels", QMNIST_LABELS_MAGIC: "QMNIST labels"}.get(magic)
    return f"{what} (magic {magic})" if what else f"{'uint8' if magic >> 8 == 8 else 'int32'} values, {magic & 255}-D"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
