"""Arrays of NumPy's files, ``.npy`` and ``.npz``: nothing pickled, and no more memory than their bytes fill.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import contextlib
import math
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import DataError
from lean_mnist.reading.files import opened, read_announced
from lean_mnist.reading.text import printable, shown

Array = npt.NDArray[Any]
LARGEST_ARRAY = 1 << 30  # bytes
_LONGEST_HEADER = 10_000
_MOST_DIMENSIONS = 8
_MOST_ENTRIES = 100
_DTYPE = re.compile(r"[<>|=]?(?:[biuf][1248]|U[1-9][0-9]{0,3})")
_HEADER = re.compile(
    r"\{\s*'descr':\s*'([^']*)',\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(([0-9]{0,18}(?:,\s*[0-9]{1,18})*),?\s*\)"
    r",?\s*\}\s*"
)
_END = struct.Struct("<4s4H2IH")
_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)


def read_npy(path: str | Path) -> Array:
    """The array in a ``.npy`` file: of numbers, truth values or text, at most 1 GiB. Raises ``DataError``."""
    with opened(path, "an array of NumPy (.npy)") as (file, _):
        return _array(file, shown(path))


class Arrays:
    """The arrays of a ``.npz`` file, by name; each is read when it is asked for."""

    def __init__(self, archive: zipfile.ZipFile, where: str) -> None:
        self._archive, self._where = archive, where
        self.names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]

    def read(self, name: str) -> Array:
        """The array called ``name``, at most 1 GiB; raises ``DataError``."""
        where = f"{self._where}: {printable(name, 60)}"
        try:
            packed = self._archive.getinfo(f"{name}.npy")
            if packed.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others take memory unasked
                raise DataError(f"{where}: packed by another method than NumPy's, expected an array of NumPy")
            with self._archive.open(packed) as entry:
                return _array(entry, where)  # type: ignore[arg-type]
        except DataError:
            raise
        except KeyError:
            held = printable(", ".join(self.names) or "none", 100)
            raise DataError(f"{where}: expected an array of that name, found {held}") from None
        except _FAULTS as fault:
            raise DataError(f"{where}: damaged ({printable(fault, 80)}), expected an array of NumPy") from None


@contextlib.contextmanager
def opened_npz(path: str | Path) -> Iterator[Arrays]:
    """The arrays of a ``.npz`` file, packed or not. Raises ``DataError`` for what is none."""
    what, where = "arrays of NumPy (.npz)", shown(path)
    with opened(path, what) as (file, size):
        file.seek(max(0, size - 42))
        tail = file.read(42)
        ends = tail[-22:].startswith(b"PK\5\6") and not tail.startswith(b"PK\6\7")  # no comment; sizes of 32 bits
        entries = _END.unpack(tail[-22:])[4] if ends else 0
        # As many as the end says are unpacked into objects, whatever they hold, before any of them is looked at.
        if not ends or entries > _MOST_ENTRIES or _END.unpack(tail[-22:])[5] > _MOST_ENTRIES * 1000:
            found = f"{entries:,} entries, at most {_MOST_ENTRIES} are taken" if ends else "a file that is none"
            raise DataError(f"{where}: expected {what}, found {found}")
        try:
            archive = zipfile.ZipFile(file)
        except _FAULTS as fault:
            raise DataError(f"{where}: damaged ({printable(fault, 80)}), expected {what}") from None
        with archive:
            yield Arrays(archive, where)


def _array(file: BinaryIO, where: str) -> Array:
    start = file.read(8)
    if len(start) < 8 or not start.startswith(b"\x93NUMPY") or start[6] not in (1, 2, 3):
        raise DataError(f"{where}: expected an array of NumPy, found another file")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > _LONGEST_HEADER:
        raise DataError(f"{where}: announces a header of {length:,} bytes, expected at most {_LONGEST_HEADER:,}")
    header = _HEADER.fullmatch(file.read(length).decode("latin-1"))
    if header is None:
        raise DataError(f"{where}: expected one array of plain numbers or text, found another header")
    try:
        dtype = np.dtype(header[1]) if _DTYPE.fullmatch(header[1]) else None
    except TypeError:
        dtype = None
    if dtype is None:
        found = "objects, of which nothing is run" if "O" in header[1] else printable(repr(header[1]), 40)
        raise DataError(f"{where}: holds {found}, expected plain numbers or text")
    shape = tuple(int(side) for side in header[3].replace(" ", "").split(",") if side)
    size = math.prod(shape) * dtype.itemsize
    bounded = math.prod(max(side, 1) for side in shape) * dtype.itemsize <= LARGEST_ARRAY  # a size of 0 left out
    if len(shape) > _MOST_DIMENSIONS or not bounded:
        found = f"shape {printable(shape, 60)} of {header[1]}"
        raise DataError(f"{where}: announces {found}, expected at most {LARGEST_ARRAY:,} bytes")
    content = read_announced(file, size)
    if len(content) < size or file.read(1):
        found = f"{len(content):,} bytes" if len(content) < size else "more"
        raise DataError(f"{where}: expected {size:,} bytes for shape {printable(shape, 60)}, found {found}")
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if header[2] == "True" else "C")
    array = array.astype(dtype.newbyteorder("="), copy=False)
    if dtype.kind == "U" and np.frombuffer(content, dtype.byteorder + "u4").max(initial=0) > sys.maxunicode:
        raise DataError(f"{where}: holds what is no character, expected plain numbers or text")
    return array
