"""Bytes of files from elsewhere: of regular files only, and no more of them than the caller has a use for."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from pathlib import Path
from typing import BinaryIO

from lean_mnist.errors import DataError, LeanMnistError
from lean_mnist.reading.text import printable, shown

LARGEST = 1 << 28  # bytes, unpacked, unless told otherwise
GZIP_MAGIC = b"\x1f\x8b"
# Not every system has all of them. Without O_NONBLOCK the opening of a pipe waits for somebody who writes into it.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))


def read_bytes(
    path: str | Path,
    what: str,
    error: type[LeanMnistError] = DataError,
    *,
    largest: int | None = None,
    packed: bool | None = False,
) -> bytes:
    """The content of the regular file at ``path``, where ``what`` is expected, as in "a checkpoint".

    With ``packed`` it is unpacked by gzip, with ``None`` if it begins as gzip does. Raises ``error``, one line, if it
    cannot be read, is a folder, pipe or device, or has more than ``largest`` bytes, packed or unpacked (256 MiB if not
    given); no more than that is ever held.
    """
    largest = LARGEST if largest is None else largest
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > largest:
                raise error(f"{shown(path)}: {size:,} bytes, expected {what} of at most {largest:,}")
            content = _limited(file, largest, path, what, error)
        if packed or (packed is None and content.startswith(GZIP_MAGIC)):
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as unpacked:
                content = _limited(unpacked, largest, path, what, error)
    except (gzip.BadGzipFile, EOFError, zlib.error) as fault:  # BadGzipFile is an OSError: it has to come first
        raise error(f"{shown(path)}: damaged gzip file ({printable(fault)}), expected {what}") from None
    except (OSError, ValueError) as fault:  # ValueError: a null byte in the path
        if isinstance(fault, error):
            raise
        reason = fault.strerror if isinstance(fault, OSError) and fault.strerror else printable(fault)
        raise error(f"{shown(path)}: expected {what}, found: {reason}") from None
    return content


def open_regular(path: str | Path) -> BinaryIO:
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


def _limited(
    file: BinaryIO | gzip.GzipFile, largest: int, path: str | Path, what: str, error: type[LeanMnistError]
) -> bytes:
    content = file.read(largest + 1)
    if len(content) > largest:
        raise error(f"{shown(path)}: more than {largest:,} bytes, expected {what}")
    return content
