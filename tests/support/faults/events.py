"""TensorBoard's event files, read from their bytes: records with their checksums, and what a resumed writer purges.

Independent of TensorBoard's own reader, which passes over what it cannot read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_TABLE = []
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = (_value >> 1) ^ (0x82F63B78 if _value & 1 else 0)
    _TABLE.append(_value)


def masked_crc32c(content: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord files have it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class Event(NamedTuple):
    """One value of a tag."""

    step: int
    tag: str
    kind: str  # the field of the summary's value
    content: bytes


@dataclass(frozen=True)
class Events:
    """All that a folder's event files hold after purging, in the order of the files; ``torn`` files end in a part."""

    values: tuple[Event, ...]
    torn: int

    def by_tag(self) -> dict[str, list[tuple[int, str, Any]]]:
        """Of each tag its steps and values, scalars as numbers."""
        found: dict[str, list[tuple[int, str, Any]]] = {}
        for step, tag, kind, content in self.values:
            found.setdefault(tag, []).append((step, kind, content.hex()))
        return found


def records_of(path: Path) -> Iterator[bytes | None]:
    """The records of a TFRecord file, ``None`` last where it ends within one; raises ``ValueError`` at damage."""
    content, place = path.read_bytes(), 0
    while place < len(content):
        head = content[place : place + 12]
        if len(head) < 12:
            yield None
            return
        length, check = struct.unpack("<QI", head)
        if masked_crc32c(head[:8]) != check:
            raise ValueError(f"{path}: byte {place}: a length with a wrong checksum")
        body = content[place + 12 : place + 16 + length]
        if len(body) < length + 4:
            yield None
            return
        if masked_crc32c(body[:-4]) != struct.unpack("<I", body[-4:])[0]:
            raise ValueError(f"{path}: byte {place}: a record with a wrong checksum")
        yield body[:-4]
        place += 16 + length


def fields_of(message: bytes) -> Iterator[tuple[int, Any]]:
    """Fields of a protocol buffer: their numbers, and integers or bytes as they stand."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(message):
        key = varint()
        number, wire = key >> 3, key & 7
        if wire == 0:
            yield number, varint()
            continue
        length = {1: 8, 5: 4}.get(wire)
        if length is None:
            if wire != 2:
                raise ValueError(f"field {number}: wire type {wire}")
            length = varint()
        if place + length > len(message):
            raise ValueError(f"field {number}: longer than its message")
        yield number, message[place : place + length]
        place += length


_KINDS = {2: "scalar", 4: "image", 5: "histogram", 6: "audio", 8: "tensor"}  # of Summary.Value
_START = 1  # SessionLog.START


def read_events(folder: Path) -> Events:
    """All event files of ``folder``, in the order in which TensorBoard reads them; an event that a later session
    started before is gone."""
    kept: list[Event] = []
    torn = 0
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for record in records_of(path):
            if record is None:
                torn += 1
                continue
            fields = dict(fields_of(record))
            step = int.from_bytes(fields.get(2, 0).to_bytes(8, "little"), "little", signed=True)
            if 7 in fields and dict(fields_of(fields[7])).get(1) == _START:
                kept = [event for event in kept if event.step < step]
            for number, value in fields_of(fields[5]) if 5 in fields else ():
                if number == 1:
                    kept.append(_event(step, value))
    return Events(tuple(kept), torn)


def _event(step: int, value: bytes) -> Event:
    tag, kind, content, rest = "", "", b"", b""
    for number, field in fields_of(value):
        if number == 1:
            tag = field.decode()
        elif number in _KINDS:
            kind, content = _KINDS[number], field
        else:
            rest += bytes(field)
    return Event(step, tag, kind, content + rest)
