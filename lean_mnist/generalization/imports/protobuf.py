"""The wire format of Protocol Buffers, as far as ONNX files use it (protobuf.dev, "Encoding")."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from lean_mnist.errors import DataError
from lean_mnist.generalization.imports.files import one_line

Value = int | bytes
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def fields(message: bytes, what: str) -> Iterator[tuple[int, int, Value]]:
    """The fields of a message: number, wire type, and a number or bytes. ``DataError`` where it is damaged."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place, what)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, place = _varint(message, place, what)
            yield number, kind, value
            continue
        if kind == LENGTH:
            size, place = _varint(message, place, what)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise DataError(f"{what}: a field of wire type {kind}, expected 0, 1, 2 or 5")
        if number == 0 or size > len(message) - place:
            raise DataError(
                f"{what}: a field of {size} bytes with {len(message) - place} left, expected a whole message"
            )
        yield number, kind, message[place : place + size]
        place += size


def signed(value: Value, what: str) -> int:
    """A varint as the int64 that it stands for."""
    if not isinstance(value, int):
        raise DataError(f"{what}: bytes, expected a number")
    return value - (1 << 64) if value >> 63 else value


def integers(value: Value, what: str) -> list[int]:
    """A repeated int64, packed or a single one."""
    if isinstance(value, int):
        return [signed(value, what)]
    result, place = [], 0
    while place < len(value):
        number, place = _varint(value, place, what)
        result.append(signed(number, what))
    return result


def text(value: Value, what: str) -> str:
    """A string, fit for one line: what cannot be printed is escaped, so that different strings stay different."""
    if not isinstance(value, bytes):
        raise DataError(f"{what}: a number, expected a string")
    try:
        return one_line(value.decode())
    except UnicodeDecodeError:
        raise DataError(f"{what}: bytes that are no UTF-8, expected a string") from None


def raw(value: Value, what: str) -> bytes:
    """Bytes or a message."""
    if not isinstance(value, bytes):
        raise DataError(f"{what}: a number, expected bytes")
    return value


def float32(value: Value, what: str) -> float:
    """A single float."""
    if not isinstance(value, bytes) or len(value) != 4:
        raise DataError(f"{what}: no float of 4 bytes, expected one")
    return float(struct.unpack("<f", value)[0])


def _varint(message: bytes, place: int, what: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            break
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & ((1 << 64) - 1), place
    raise DataError(f"{what}: damaged, expected a whole number at byte {place}")
