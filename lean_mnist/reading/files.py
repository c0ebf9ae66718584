"""Bytes of files from elsewhere: of regular files only, and no more of them than the caller has a use for."""

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lean_mnist.errors import DataError, LeanMnistError
from lean_mnist.reading.packed import GzipDamaged, GzipStream
from lean_mnist.reading.text import printable, shown

LARGEST = 1 << 28  # bytes, unpacked, unless told otherwise
_CHUNK = 1 << 20
# Not every system has all of them. Without O_NONBLOCK the opening of a pipe waits for somebody who writes into it.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))


def read_bytes(
    path: str | Path,
    what: str,
    error: type[LeanMnistError] = DataError,
    *,
    largest: int = LARGEST,
    packed: bool = False,
) -> bytes:
    """The content of the regular file at ``path``, where ``what`` is expected, as in "a checkpoint".

    With ``packed`` it is unpacked by gzip. Raises ``error``, one line, if it cannot be read, is a folder, pipe or
    device, or has more than ``largest`` bytes, packed or unpacked; no more than that is ever held.
    """
    with opened(path, what, error) as (file, size):
        if size > largest:
            raise error(f"{shown(path)}: {size:,} bytes, expected {what} of at most {largest:,}")
        # None: a file of the system that has nothing to read yet
        content = (GzipStream(file).read(largest + 1) if packed else file.read(size + 1)) or b""
    if len(content) > largest:
        raise error(f"{shown(path)}: more than {largest:,} bytes, expected {what}")
    return content


@contextlib.contextmanager
def opened(
    path: str | os.PathLike[str], what: str, error: type[LeanMnistError] = DataError
) -> Iterator[tuple[io.BufferedReader, int]]:
    """The regular file at ``path``, to be read in parts, and its size.

    Arguments and errors as of :func:`read_bytes`; what cannot be read or unpacked is ``error`` within the block, too.
    """
    try:
        file = open_regular(path)
    except (OSError, ValueError) as fault:  # ValueError: a null byte in the path
        raise error(_unreadable(path, what, fault)) from None
    with file:
        try:
            yield file, os.fstat(file.fileno()).st_size
        except GzipDamaged as fault:
            raise error(f"{shown(path)}: damaged gzip file ({printable(fault)}), expected {what}") from None
        except OSError as fault:
            raise error(_unreadable(path, what, fault)) from None


def read_announced(file: BinaryIO | GzipStream, size: int) -> bytearray:
    """The next ``size`` bytes, or as many as there are: memory grows with these, so that announcing more costs none."""
    content = bytearray()
    while len(content) < size and (chunk := file.read(min(_CHUNK, size - len(content)))):
        content += chunk
    return content


def _unreadable(path: str | os.PathLike[str], what: str, fault: OSError | ValueError) -> str:
    reason = fault.strerror if isinstance(fault, OSError) and fault.strerror else printable(fault)
    return f"{shown(path)}: expected {what}, found: {reason}"


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """The file at ``path``, open for reading; raises ``OSError`` also where it is no regular file, without waiting."""
    descriptor = os.open(path, _FLAGS)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(0, "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
