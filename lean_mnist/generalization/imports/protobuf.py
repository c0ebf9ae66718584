"""Protocol buffers as data: the fields of a message by their numbers, and no more of them than a budget.

Nothing is copied or built of what is not asked for, so a file costs no more than its bytes and its budget.

Format: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")

MOST_FIELDS = 20_000  # of all messages of a file
_LARGEST_PACKED = 1 << 20  # bytes of numbers of different length, each of which becomes eight bytes


class Damaged(Exception):
    """Why something is no message of the expected kind, in words."""


@dataclass
class Budget:
    """The number of fields that a file may still have."""

    left: int = MOST_FIELDS


_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types; the others are groups, which nobody writes any more


@dataclass(frozen=True)
class Message:
    """The fields of a message: wire type and content of each, by their numbers, in the order of the file.

    Every method raises ``Damaged`` where a field is not what it asks for, and a field that should be there once is
    there twice.
    """

    budget: Budget
    held: dict[int, list[tuple[int, Any]]] = field(default_factory=dict)

    @classmethod
    def read(cls, content: memoryview, budget: Budget) -> Message:
        """The message in ``content``; raises ``Damaged``, also where it has more fields than are left in the budget."""
        message, place = cls(budget), 0
        while place < len(content):
            budget.left -= 1
            if budget.left < 0:
                raise Damaged(f"more than {MOST_FIELDS:,} fields")
            tag, place = _varint(content, place)
            kind, number = tag & 7, tag >> 3
            held: Any = None
            if kind == _VARINT:
                held, place = _varint(content, place)
            elif kind in (_FIXED64, _BYTES, _FIXED32):
                length, place = _varint(content, place) if kind == _BYTES else (8 if kind == _FIXED64 else 4, place)
                held, place = content[place : place + length], place + length
            if held is None or place > len(content) or not 0 < number < 1 << 29:
                raise Damaged("a field that is cut off, or of no known kind")
            message.held.setdefault(number, []).append((kind, held))
        return message

    def messages(self, number: int) -> list[Message]:
        """The messages in a field, in order."""
        return [Message.read(content, self.budget) for content in self._of(number, _BYTES)]

    def message(self, number: int) -> Message:
        """The message in a field that may be there once; one without fields if it is not."""
        return (_once(self.messages(number)) or [Message(self.budget)])[0]

    def texts(self, number: int) -> list[str]:
        """The texts in a field, in order."""
        try:
            return [str(content, "utf-8") for content in self._of(number, _BYTES)]
        except UnicodeDecodeError:
            raise Damaged("bytes that are no UTF-8, expected a string") from None

    def text(self, number: int) -> str:
        """The text in a field that may be there once."""
        return "".join(_once(self.texts(number)))

    def number(self, number: int) -> int:
        """The whole number, of 64 bits with a sign, in a field that may be there once; 0 if it is not."""
        values = _once(self._of(number, _VARINT))
        return int(np.array(values or [0], np.uint64).view(np.int64)[0])

    def float32(self, number: int) -> float:
        """The number in a field that may be there once; 0 if it is not."""
        values = _once(self._of(number, _FIXED32))
        return float(np.frombuffer(values[0], "<f4")[0]) if values else 0.0

    def raw(self, number: int) -> memoryview:
        """The bytes in a field that may be there once."""
        values: list[memoryview] = _once(self._of(number, _BYTES))
        return values[0] if values else memoryview(b"")

    def floats(self, number: int, dtype: str) -> npt.NDArray[Any]:
        """The numbers of ``dtype``, ``<f4`` or ``<f8``, in a field, one by one or packed."""
        own = np.dtype(dtype)
        parts = self._of(number, _BYTES, _FIXED32 if own.itemsize == 4 else _FIXED64)
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        if len(content) % own.itemsize:
            raise Damaged(f"{len(content)} bytes of numbers of {own.itemsize}")
        return np.frombuffer(content, own)

    def integers(self, number: int) -> npt.NDArray[np.int64]:
        """The whole numbers in a field, of 64 bits with a sign, one by one or packed, at most 1 MiB of them."""
        parts, values = self._of(number, _BYTES, _VARINT), []
        size = sum(len(part) for part in parts if not isinstance(part, int))
        if size > _LARGEST_PACKED:
            raise Damaged(f"{size:,} bytes of whole numbers, expected at most {_LARGEST_PACKED:,}")
        for part in parts:
            place = 0
            if isinstance(part, int):
                values.append(part)
                continue
            while place < len(part):
                value, place = _varint(part, place)
                values.append(value)
        return np.array(values, np.uint64).view(np.int64)

    def _of(self, number: int, *kinds: int) -> list[Any]:
        parts = self.held.get(number, [])
        if any(kind not in kinds for kind, _ in parts):
            raise Damaged("a field of another kind than expected")
        return [content for _, content in parts]


def _once(values: list[T]) -> list[T]:
    if len(values) > 1:
        raise Damaged("a field twice that should be there once")
    return values


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    if place < len(content) and content[place] < 128:
        return content[place], place + 1
    value = 0
    for shift, byte in zip(range(0, 70, 7), content[place : place + 10], strict=False):
        value |= (byte & 127) << shift
        if byte < 128:
            if value >= 1 << 64:
                break
            return value, place + shift // 7 + 1
    raise Damaged("a number that is cut off or has more than 64 bits")
