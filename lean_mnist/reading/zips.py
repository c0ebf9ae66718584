"""Strict zip files, as ``torch.save`` writes them: stored entries one behind the other, their directory at the end."""

import struct
import zlib
from io import BufferedReader
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.reading.pickles import Refused

_MOST_ENTRIES = 50_000
_LARGEST_DIRECTORY = 1 << 23  # bytes
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_NARROW, _WIDE = 0xFFFF, 0xFFFFFFFF  # what stands in 16 and 32 bits for "see the 64 bits elsewhere"
_FLAGS = 0x0808  # sizes behind the content as well, names in UTF-8


class _Entry(NamedTuple):
    start: int  # of its header
    size: int
    checksum: int
    end: int  # where the next one starts


class ZipFile:
    """The entries of a zip file of ``size`` bytes, of which only the directory is read until one is asked for.

    Raises ``Refused`` unless it begins with its first entry and ends with its directory, all entries stand in one
    folder, are neither compressed nor encrypted, do not overlap, and no two have the same name.
    """

    def __init__(self, file: BufferedReader, size: int) -> None:
        self._file = file
        start, content, number = self._directory(size)
        self._entries: dict[str, _Entry] = {}
        place, found = 0, []
        for _ in range(number):
            name, entry, place = _entry(content, place)
            found.append((name, entry))
        if place != len(content):
            raise Refused
        ends = [*sorted(entry.start for _, entry in found)[1:], start]
        for (name, entry), end in zip(sorted(found, key=lambda pair: pair[1].start), ends, strict=True):
            self._entries[name] = entry._replace(end=end)
        folders = {name.partition("/")[0] for name in self._entries}
        if len(self._entries) != number or len(folders) != 1 or min(entry.start for _, entry in found) != 0:
            raise Refused
        self.folder = folders.pop()

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def read(self, name: str, largest: int) -> bytes:
        """The content of an entry; raises ``Refused`` if there is none, or it is damaged or larger."""
        if name in self._entries and self._entries[name].size > largest:
            raise Refused(f"its structure has {self._entries[name].size:,} bytes, expected at most {largest:,}")
        return self.tensor(name).numpy().tobytes()

    def tensor(self, name: str) -> Tensor:
        """The content of an entry, uint8 of its size; raises ``Refused`` if there is none, or it is damaged."""
        entry = self._entries.get(name)
        if entry is None:
            raise Refused
        header = _LOCAL.unpack(self._piece(entry.start, _LOCAL.size))
        signature, _, flags, method, _, _, _, packed, size, named, extra = header
        start = entry.start + _LOCAL.size + named + extra
        sizes = {packed, size} <= {0, entry.size}
        if signature != b"PK\x03\x04" or method or flags & ~_FLAGS or not sizes or start + entry.size > entry.end:
            raise Refused
        if self._piece(entry.start + _LOCAL.size, named) != name.encode():
            raise Refused
        content = torch.empty(entry.size, dtype=torch.uint8)
        view = content.numpy().data
        self._file.seek(start)
        if self._file.readinto(view) != entry.size or zlib.crc32(view) != entry.checksum:
            raise Refused
        return content

    def _piece(self, start: int, size: int) -> bytes:
        if start < 0:
            raise Refused
        self._file.seek(start)
        content = self._file.read(size)
        if len(content) != size:
            raise Refused
        return content

    def _directory(self, size: int) -> tuple[int, bytes, int]:
        """The start of the directory, its bytes, and the number of its entries."""
        at = size - _END.size
        signature, disk, first, here, number, length, start, comment = _END.unpack(self._piece(at, _END.size))
        if signature != b"PK\x05\x06" or disk or first or here != number or comment:
            raise Refused
        locator = self._piece(at - _LOCATOR_64.size, _LOCATOR_64.size) if at >= _LOCATOR_64.size else b""
        if locator.startswith(b"PK\x06\x07"):
            _, disk, end, disks = _LOCATOR_64.unpack(locator)
            at -= _LOCATOR_64.size + _END_64.size
            record = _END_64.unpack(self._piece(at, _END_64.size))
            wide = record[6:]
            narrow = [min(wide[0], _NARROW), min(wide[1], _NARROW), min(wide[2], _WIDE), min(wide[3], _WIDE)]
            if record[0] != b"PK\x06\x06" or end != at or disk or disks != 1 or [here, number, length, start] != narrow:
                raise Refused
            here, number, length, start = wide
        if start + length != at or here != number or number < 1:
            raise Refused
        if number > _MOST_ENTRIES or length > _LARGEST_DIRECTORY:
            found = f"{number:,} entries in {length:,} bytes"
            raise Refused(f"its directory has {found}, expected at most {_MOST_ENTRIES:,}")
        return start, self._piece(start, length), number


def _entry(content: bytes, place: int) -> tuple[str, _Entry, int]:
    """The entry of the directory at ``place``, its name, and where the next one begins."""
    try:
        found = _ENTRY.unpack_from(content, place)
        signature, _, _, flags, method, _, _, checksum, packed, size, named, extra, comment, disk, _, _, start = found
        name = content[place + _ENTRY.size : place + _ENTRY.size + named].decode()
    except (struct.error, UnicodeDecodeError):
        raise Refused from None
    if signature != b"PK\x01\x02" or comment or disk or flags & ~_FLAGS or size == _WIDE or start == _WIDE:
        raise Refused
    if method or packed != size:
        raise Refused("its content is compressed")
    return name, _Entry(start, size, checksum, 0), place + _ENTRY.size + named + extra
