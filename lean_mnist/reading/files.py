"""Bytes of files from elsewhere, packed or not: of regular files only, and no more than the caller has a use for."""

import contextlib
import io
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lean_mnist.errors import DataError, LeanMnistError
from lean_mnist.reading.text import printable, shown

LARGEST = 1 << 28  # bytes, unpacked, unless told otherwise
_CHUNK = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
_PACKED = 1 << 14  # few, because what is left of them is copied at the end of each member
_MOST_MEMBERS = 1 << 16  # one takes 20 bytes, and longer to begin than they take to read
# Not every system has all of them. Without O_NONBLOCK the opening of a pipe waits for somebody who writes into it.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))


class GzipDamaged(Exception):
    """A fault of a gzip file, in one line."""


class GzipStream:
    """The unpacked content of a gzip ``file``, of one or many members; only what is read is ever unpacked."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._packed = file, b""
        self._member, self._members = zlib.decompressobj(zlib.MAX_WBITS | 16), 1

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer at the end, where all checksums have been compared; or ``GzipDamaged``."""
        content = io.BytesIO()
        while content.tell() < size and self._has_more():
            try:
                content.write(self._member.decompress(self._packed, min(size - content.tell(), _CHUNK)))
            except zlib.error as fault:
                raise GzipDamaged(str(fault)) from None
            self._packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        return content.getvalue()

    def _has_more(self) -> bool:
        """Read until there is something to unpack, in a new member if the one before has ended; false at the end."""
        if self._member.eof:
            self._packed = self._packed.lstrip(b"\0")  # padding
        while not self._packed:
            self._packed = self._file.read(_PACKED)
            if not self._packed and not self._member.eof:
                raise GzipDamaged("it ends early")
            if not self._packed:
                return False
            if self._member.eof:
                self._packed = self._packed.lstrip(b"\0")
        if self._member.eof:
            self._members += 1
            if self._members > _MOST_MEMBERS:
                raise GzipDamaged(f"more than {_MOST_MEMBERS:,} members")
            self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        return True


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
