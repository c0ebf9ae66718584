"""A strict reader of IDX files, the format of MNIST and its relatives.

An IDX file is: two zero bytes, a type code, the number of dimensions (these four bytes are "the magic"), one big-endian
32-bit size per dimension, then the values, and nothing after them. A gzip file is known by its content, not its name.

Format: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", section "File formats".
"""

import hashlib
import io
import math
import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lean_mnist.cache import keep, recall
from lean_mnist.errors import DataError
from lean_mnist.reading.files import GZIP_MAGIC, LARGEST, GzipStream, opened, read_announced
from lean_mnist.reading.text import shown

PathLike = str | os.PathLike[str]
Shape = tuple[int, ...]

IMAGES_MAGIC = 2051  # 0x0803: uint8, three dimensions
LABELS_MAGIC = 2049  # 0x0801: uint8, one dimension
QMNIST_LABELS_MAGIC = 3074  # 0x0C02: int32, two dimensions
QMNIST_COLUMNS = 8
MOST_DIMENSIONS = 8
MOST_LABELS = 1 << 20  # each becomes eight bytes

_TYPES: dict[int, np.dtype[Any]] = {0x08: np.dtype(np.uint8), 0x0C: np.dtype(">i4")}
_WORTH_KEEPING = 1 << 20  # packed bytes from which on unpacking takes longer than hashing twice


def read_idx(path: PathLike, check: Callable[[int, Shape], None] | None = None) -> npt.NDArray[Any]:
    """Read one IDX file, raw or gzip, of type uint8 (0x08) or int32 (0x0C).

    ``check`` is given the magic and the shape in the header before anything is read for it, and may raise. Returns a
    writable array of that shape, uint8 or native int32. Raises :class:`DataError` also for more than 8 dimensions, one
    of size zero, more than 256 MiB, and fewer or more bytes than are announced.
    """
    with opened(path, "an IDX file") as (file, size):
        is_packed = file.peek(2)[:2] == GZIP_MAGIC
        if not (is_packed and _WORTH_KEEPING <= size <= LARGEST):
            return _parse(GzipStream(file) if is_packed else file, shown(path), check)
        packed = file.read()
        entry = f"idx-{hashlib.sha256(packed).hexdigest()}"
        if (unpacked := recall(entry)) is not None:
            return _recalled(unpacked, check)
        array = _parse(GzipStream(io.BytesIO(packed)), shown(path), check)
        if array.dtype == np.uint8:
            keep(entry, struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape), array.data)
        return array


def _recalled(unpacked: memoryview, check: Callable[[int, Shape], None] | None) -> npt.NDArray[Any]:
    """The array of uint8 that was kept, which is whole; all that can be wrong is the use for it."""
    dimensions = unpacked[3]
    shape = struct.unpack_from(f">{dimensions}I", unpacked, 4)
    if check is not None:
        check(unpacked[2] << 8 | dimensions, shape)
    return np.frombuffer(unpacked, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _parse(
    file: io.BufferedReader | GzipStream, name: str, check: Callable[[int, Shape], None] | None
) -> npt.NDArray[Any]:
    start = file.read(4)
    if len(start) < 4:
        raise DataError(f"{name}: holds {len(start)} bytes, expected an IDX header of at least 8")
    zero, type_code, dimensions = struct.unpack(">HBB", start)
    if zero != 0:
        found = start.hex(" ")
        raise DataError(f"{name}: starts with the bytes {found}, expected an IDX file, which starts with 00 00")
    if type_code not in _TYPES:
        raise DataError(f"{name}: type code 0x{type_code:02x}, expected 0x08 (uint8) or 0x0c (int32)")
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise DataError(f"{name}: declares {dimensions} dimensions, expected 1 to {MOST_DIMENSIONS}")

    header_bytes = 4 + 4 * dimensions
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise DataError(f"{name}: truncated, holds {4 + len(sizes)} bytes, its header alone needs {header_bytes}")
    shape = struct.unpack(f">{dimensions}I", sizes)
    if 0 in shape:
        raise DataError(f"{name}: dimension {shape.index(0)} has size 0 (shape {_times(shape)}), expected at least 1")
    dtype = _TYPES[type_code]
    declared = math.prod(shape) * dtype.itemsize
    if declared > LARGEST:
        raise DataError(f"{name}: declares {declared:,} bytes (shape {_times(shape)}), expected at most {LARGEST:,}")
    if check is not None:
        check(type_code << 8 | dimensions, shape)

    content, expected = read_announced(file, declared), header_bytes + declared
    if len(content) < declared:
        found = header_bytes + len(content)
        raise DataError(f"{name}: truncated, holds {found} bytes, expected {expected} for shape {_times(shape)}")
    if file.read(1):  # the end: here gzip has compared its checksum
        raise DataError(f"{name}: trailing bytes, expected the end after {expected} for shape {_times(shape)}")
    values = np.frombuffer(content, dtype=dtype).reshape(shape)
    return values if values.dtype == np.uint8 else values.astype(np.int32)


def read_images(path: PathLike, pixels: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """Read an IDX file of images (magic 2051): uint8 (m, rows, columns), with as many ``pixels`` as are asked for.

    Raises :class:`DataError` as :func:`read_idx` does, and for other contents.
    """

    def check(magic: int, shape: Shape) -> None:
        if magic != IMAGES_MAGIC:
            raise DataError(f"{shown(path)}: holds {_describe(magic)}, expected images (magic {IMAGES_MAGIC})")
        if pixels is not None and shape[1:] != pixels:
            found, expected = ("x".join(map(str, size)) for size in (shape[1:], pixels))
            raise DataError(f"{shown(path)}: images of {found} pixels, expected {expected}")

    return read_idx(path, check)


def read_examples(
    images_path: PathLike, labels_path: PathLike, pixels: tuple[int, int] | None = None, classes: int = 10
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """:func:`read_images` and :func:`read_labels`; raises :class:`DataError` unless they are equally many."""
    images, labels = read_images(images_path, pixels), read_labels(labels_path, classes)
    if len(images) != len(labels):
        counts = f"holds {len(images)} images, but {shown(labels_path)} holds {len(labels)} labels"
        raise DataError(f"{shown(images_path)} {counts}, expected equally many")
    return images, labels


def read_labels(path: PathLike, classes: int = 10) -> npt.NDArray[np.int64]:
    """Read an IDX file of at most 2^20 labels: int64 (m,), every value in 0..classes-1.

    Either plain labels (magic 2049), or QMNIST's extended ones (magic 3074, int32 (m, 8)), whose first column is the
    label. Raises :class:`DataError` as :func:`read_idx` does, for other contents and for a label out of range.
    """

    def check(magic: int, shape: Shape) -> None:
        if magic not in (LABELS_MAGIC, QMNIST_LABELS_MAGIC):
            raise DataError(f"{shown(path)}: holds {_describe(magic)}, expected labels (magic {LABELS_MAGIC})")
        if shape[1:] not in ((), (QMNIST_COLUMNS,)):
            raise DataError(f"{shown(path)}: {shape[1]} columns of labels, expected {QMNIST_COLUMNS} (QMNIST)")
        if shape[0] > MOST_LABELS:
            raise DataError(f"{shown(path)}: declares {shape[0]:,} labels, expected at most {MOST_LABELS:,}")

    array = read_idx(path, check)
    labels = array if array.ndim == 1 else array[:, 0]
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        index = int(wrong.argmax())
        raise DataError(f"{shown(path)}: label {int(labels[index])} at index {index}, expected 0 to {classes - 1}")
    return labels.astype(np.int64)


def _describe(magic: int) -> str:
    what = {IMAGES_MAGIC: "images", LABELS_MAGIC: "labels", QMNIST_LABELS_MAGIC: "QMNIST labels"}.get(magic)
    return f"{what} (magic {magic})" if what else f"{'uint8' if magic >> 8 == 8 else 'int32'} values, {magic & 255}-D"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
