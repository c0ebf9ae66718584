"""Files of ``torch.save``, made by hand: what no honest program writes."""

import io
import struct
import sys
import zipfile
from typing import Any

import torch


def saved(value: Any) -> bytes:
    """The bytes that ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def entries_of(content: bytes) -> dict[str, bytes]:
    """The entries of a zip file by their names."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def packed(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file of these entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, entry in entries.items():
            archive.writestr(zipfile.ZipInfo(name), entry, method)
    return buffer.getvalue()


def of_pickle(pickle: bytes, *storages: bytes) -> bytes:
    """A file with this pickle, and storages ``data/0``, ``data/1``, …."""
    data = {f"archive/data/{i}": storage for i, storage in enumerate(storages)}
    return packed({"archive/data.pkl": pickle, "archive/byteorder": sys.byteorder.encode(), **data})


def text(value: str) -> bytes:
    """The opcode for a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    """The opcode for a whole number."""
    if abs(value) < 1 << 31:
        return b"J" + struct.pack("<i", value)
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def numbers(values: tuple[int, ...]) -> bytes:
    """The opcodes for a tuple of whole numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(
    shape: tuple[int, ...], stride: tuple[int, ...], *, length: int, offset: int = 0, device: str = "cpu",
    storage: str = "torch\nFloatStorage\n", key: str = "0",
) -> bytes:  # fmt: skip
    """The opcodes for a tensor in the storage ``key``."""
    identity = b"(" + text("storage") + b"c" + storage.encode() + text(key) + text(device) + number(length) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    place = identity + number(offset) + numbers(shape) + numbers(stride) + b"\x89" + hooks
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + b"tR"
