"""Strict zip files, as ``torch.save`` writes them: stored entries one behind the other, their directory at the end."""

import struct
import zipfile
from io import BufferedReader

import torch
from torch import Tensor

from lean_mnist.reading.pickles import Refused

_MOST_ENTRIES = 50_000
_LARGEST_DIRECTORY = 1 << 23  # bytes
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q4sIQI")  # with its locator
_HEADER = 30  # bytes of an entry before its name
_CHUNK = 1 << 20
_FAULTS = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error)


class ZipFile:
    """The entries of a zip file of ``size`` bytes, of which only the directory is read until one is asked for.

    Raises ``Refused`` unless it begins with its first entry and ends with its directory, all entries stand in one
    folder, are neither compressed nor encrypted, do not overlap, and no two have the same name.
    """

    def __init__(self, file: BufferedReader, size: int) -> None:
        number = _announced(file, size)
        try:
            self._zip = zipfile.ZipFile(file)
        except _FAULTS:
            raise Refused from None
        found = sorted(self._zip.infolist(), key=lambda entry: entry.header_offset)
        if any(entry.compress_type or entry.compress_size != entry.file_size for entry in found):
            raise Refused("its content is compressed")
        starts = [*(entry.header_offset for entry in found), size]
        self._entries = {entry.filename: (entry, end) for entry, end in zip(found, starts[1:], strict=True)}
        folders = {name.partition("/")[0] for name in self._entries}
        if starts[0] != 0 or len(folders) != 1 or not number == len(found) == len(self._entries):
            raise Refused
        self.folder = folders.pop()

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def read(self, name: str, largest: int) -> bytes:
        """The content of an entry; raises ``Refused`` if there is none, or it is damaged or larger."""
        if name in self and self._entries[name][0].file_size > largest:
            raise Refused(f"its structure has {self._entries[name][0].file_size:,} bytes, expected at most {largest:,}")
        return self.tensor(name).numpy().tobytes()

    def tensor(self, name: str) -> Tensor:
        """The content of an entry, uint8 of its size; raises ``Refused`` if there is none, or it is damaged."""
        entry, end = self._entries.get(name, (None, 0))
        if entry is None or entry.header_offset + _HEADER + len(name) + entry.file_size > end:
            raise Refused
        content = torch.empty(entry.file_size, dtype=torch.uint8)
        view, place = content.numpy().data, 0
        try:
            with self._zip.open(entry) as file:
                while chunk := file.read(_CHUNK):  # compares the checksum at the end
                    view[place : place + len(chunk)] = chunk
                    place += len(chunk)
        except _FAULTS:
            raise Refused from None
        if place != len(content):
            raise Refused
        return content


def _announced(file: BufferedReader, size: int) -> int:
    """The number of entries that the end of the file announces; raises ``Refused`` for more than may be read."""
    file.seek(max(0, size - _END_64.size - _END.size))
    tail = file.read()
    if len(tail) != _END_64.size + _END.size:
        raise Refused
    signature, disk, first, here, number, length, _, comment = _END.unpack(tail[_END_64.size :])
    wide = _END_64.unpack(tail[: _END_64.size])
    if wide[10] == b"PK\x06\x07":
        here, number, length = wide[6:9]
        if wide[0] != b"PK\x06\x06" or wide[12] != size - len(tail):
            raise Refused
    if signature != b"PK\x05\x06" or disk or first or comment or here != number:
        raise Refused
    if number > _MOST_ENTRIES or length > _LARGEST_DIRECTORY:
        found = f"{number:,} entries in {length:,} bytes"
        raise Refused(f"its directory has {found}, expected at most {_MOST_ENTRIES:,}")
    return int(number)
