"""Unpacking of gzip files, no further than somebody reads."""

import io
import zlib
from typing import BinaryIO

GZIP_MAGIC = b"\x1f\x8b"
_PACKED = 1 << 14  # few, because what is left of them is copied at the end of each member
_UNPACKED = 1 << 20
_MOST_MEMBERS = 1 << 16  # one takes 20 bytes, and longer to begin than they take to read


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
                content.write(self._member.decompress(self._packed, min(size - content.tell(), _UNPACKED)))
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
