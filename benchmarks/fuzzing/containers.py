"""Mutations inside of containers: files of ``torch.save``, pickles, zip directories, protobuf and safetensors."""

from __future__ import annotations

import contextlib
import io
import json
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor

from benchmarks.fuzzing.mutations import INTEGERS, TEXTS, Mutation, as_json, changed, odd, of_bytes

Content = dict[str, Any]


def of_content(finish: Callable[[Content], Content] = lambda content: content) -> Mutation:
    """A mutation of values and tensors in files of ``torch.save``; ``finish`` mends what a forger does, as a hash."""

    def mutate(random: Random, seeds: Sequence[bytes]) -> bytes:
        content = torch.load(io.BytesIO(random.choice(seeds)), weights_only=True)
        for _ in range(random.choice((1, 1, 1, 2, 5))):
            content = changed(random, content, odd_value)
        buffer = io.BytesIO()
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = finish(content)
        torch.save(content, buffer)
        return buffer.getvalue()

    return mutate


def odd_value(random: Random) -> Any:
    """A plain value or a tensor that hardly any field expects."""
    return odd_tensor(random) if random.random() < 0.4 else odd(random)


def odd_tensor(random: Random) -> Tensor:
    """A tensor of an odd layout, dtype, shape or content."""
    dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.bool, torch.uint8, torch.int64)
    shapes = ((), (0,), (1,), (3,), (10,), (4, 64), (10, 4), (0, 4), (2, 3, 4), (1,) * 40, (1, 1 << 40, 0))
    makers: tuple[Callable[[], Tensor], ...] = (
        lambda: torch.zeros(random.choice(shapes), dtype=random.choice(dtypes)),
        lambda: torch.zeros(1).expand(random.choice((10, 1 << 20, 1 << 34))),
        lambda: torch.zeros(1).expand(10, 4),
        lambda: torch.zeros(100)[7:47].view(10, 4).t(),
        lambda: torch.full((10, 4), random.choice((float("nan"), float("inf"), 1e38, 1e-45))),
        lambda: torch.eye(4).to_sparse(),
        lambda: torch.zeros(3, 3).to_sparse_csr(),
        lambda: torch.empty(random.choice(((4, 64), (1 << 20, 1 << 20))), device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(4, 64), 0.1, 0, torch.qint8),
        lambda: torch.ones(10, 4, requires_grad=True),
        lambda: torch.nn.Parameter(torch.ones(4, 64)),
        lambda: torch.zeros(8, dtype=torch.float8_e4m3fn),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return random.choice(makers)()


# -- zip --------------------------------------------------------------------------------------------------------------


def of_archive(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One of the zip files packed again: entries altered, deflated, doubled, renamed, or its directory contradicted."""
    with zipfile.ZipFile(io.BytesIO(random.choice(seeds))) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    for _ in range(random.choice((0, 1, 1, 2))):
        place, kind = random.randrange(len(entries)), random.randrange(6)
        name, content = entries[place]
        if kind == 0:
            del entries[place : place + (len(entries) > 1)]
        elif kind == 1:
            entries.append((name, random.choice(entries)[1]))
        elif kind == 2:
            entries[place] = random.choice((*TEXTS[:7], "a/../b", name.upper(), name + "0")) or "x", content
        elif name.endswith("data.pkl"):
            entries[place] = name, of_pickle(random, [content])
        else:
            entries[place] = name, of_bytes(random, [content or b"\0"])
    how = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    buffer = io.BytesIO(random.randbytes(8) if random.random() < 0.05 else b"")
    buffer.seek(0, io.SEEK_END)
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", how) as archive:
        warnings.simplefilter("ignore")
        for name, content in entries:
            # Of no time, so that a seed gives the same file whenever it is asked.
            entry = zipfile.ZipInfo(name.encode("utf-8", "replace").decode())
            entry.compress_type = how
            archive.writestr(entry, content)
    packed = bytearray(buffer.getvalue())
    if random.random() < 0.5:
        _contradict(random, packed)
    return bytes(packed)


def _contradict(random: Random, packed: bytearray) -> None:
    """Overwrite a field of a local header, of the directory or of its end."""
    magic, fields = random.choice(
        (
            (b"PK\x03\x04", ((6, "H"), (8, "H"), (14, "I"), (18, "I"), (22, "I"), (26, "H"), (28, "H"))),
            (b"PK\x01\x02", ((10, "H"), (16, "I"), (20, "I"), (24, "I"), (28, "H"), (42, "I"))),
            (b"PK\x05\x06", ((8, "H"), (10, "H"), (12, "I"), (16, "I"), (20, "H"))),
        )
    )
    starts = [at for at in range(len(packed) - 3) if packed[at : at + 4] == magic]
    if starts:
        offset, code = random.choice(fields)
        value = random.choice(INTEGERS) % (1 << 8 * struct.calcsize(code))
        with contextlib.suppress(struct.error):
            struct.pack_into(f"<{code}", packed, random.choice(starts) + offset, value)


# -- pickles ----------------------------------------------------------------------------------------------------------

_OPCODES = (
    b"(",
    b"t",
    b"l",
    b"d",
    b"}",
    b"]",
    b")",
    b"N",
    b"\x88",
    b"0",
    b"1",
    b"2",
    b"R",
    b"b",
    b"o",
    b"Q",
    b"a",
    b"e",
    b"s",
    b"u",
    b"q\x00",
    b"h\x00",
    b"r\xff\xff\xff\x7f",
    b"j\x00\x00\x00\x00",
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"ctorch\nTensor\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_sparse_tensor\n",
    b"c__main__\nx\n",
    b"iposix\nsystem\n",
    b"P0\n",
    b"\x8a\x08" + b"\xff" * 8,
    b"\x8b\xff\xff\xff\x7f",
    b"X\xff\xff\xff\x7f",
    b"B\xff\xff\xff\xff",
    b"\x8e" + b"\xff" * 8,
    b"\x95" + b"\xff" * 8,
    b"G\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"I" + b"9" * 5_000 + b"\n",
    b"K\x00",
    b"M\xff\xff",
    b"J\xff\xff\xff\x7f",
    b"J\x00\x00\x00\x80",
    b"\x8a\x09" + b"\xff" * 8 + b"\x00",
    b"X\x00\x00\x00\x00",
    b"X\x02\x00\x00\x00\x1b[",
    b"\x86",
    b"\x87",
    b"\x93",
    b"\x94",
    b"\x81",
    b"\x92",
    b".",
    b"\x80\x05",
    b"\x80\xff",
    b"(K\x01" * 50,
    b"2\x86" * 40,
    b"]" + b"2a" * 40,
)


def of_pickle(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One of the pickles with opcodes altered, removed, doubled, exchanged or put in."""
    content = random.choice(seeds)
    starts = []
    with contextlib.suppress(Exception):
        starts = [place for _, _, place in pickletools.genops(content) if place is not None]
    if len(starts) < 2:
        return of_bytes(random, seeds)
    pieces = [content[start:end] for start, end in zip(starts, [*starts[1:], len(content)], strict=True)]
    for _ in range(random.choice((1, 1, 2, 4))):
        place, kind = random.randrange(len(pieces)), random.randrange(6)
        if kind == 0:
            del pieces[place : place + random.choice((1, 1, 3))]
        elif kind == 1:
            pieces[place:place] = [pieces[place]] * random.choice((1, 1, 30))
        elif kind == 2:
            pieces[place:place] = [random.choice(_OPCODES)]
        elif kind == 3:
            pieces[place] = random.choice(_OPCODES)
        elif kind == 4:
            other = random.randrange(len(pieces))
            pieces[place], pieces[other] = pieces[other], pieces[place]
        else:
            pieces[place] = of_bytes(random, [pieces[place]])
        pieces = pieces or [b"N"]
    return b"".join(pieces)


# -- protobuf and safetensors -----------------------------------------------------------------------------------------


def of_protobuf(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One of the protobuf messages with a field, at any depth, altered, removed, doubled, renumbered or nested."""
    content = random.choice(seeds)
    for _ in range(random.choice((1, 1, 2, 4))):
        content = _changed_message(random, content, 0)
    return content


def _changed_message(random: Random, content: bytes, depth: int) -> bytes:
    fields = _fields(content)
    if not fields:
        return of_bytes(random, [content or b"\0"])
    place, kind = random.randrange(len(fields)), random.randrange(9)
    number, wire, value = fields[place]
    if kind == 0:
        del fields[place]
    elif kind == 1:
        fields[place:place] = [fields[place]] * random.choice((1, 3, 1_000 if len(value) < 100 else 3))
    elif kind == 2:
        fields[place] = random.randrange(1, 30), wire, value
    elif kind == 3:
        fields[place] = number, random.randrange(6), value
    elif wire == 0:
        fields[place] = number, 0, varint(random.choice(INTEGERS) % (1 << 64))
    elif kind == 4 and wire == 2:
        text = random.choice(TEXTS).encode("utf-8", "surrogatepass")
        fields[place] = number, 2, text
    elif wire == 2 and depth < 5:
        fields[place] = number, 2, _changed_message(random, value, depth + 1)
    else:
        fields[place] = number, wire, of_bytes(random, [value or b"\0"])
    return b"".join(_written(*field) for field in fields)


def _written(number: int, wire: int, value: bytes) -> bytes:
    return varint(number << 3 | wire) + (varint(len(value)) if wire == 2 else b"") + value


def varint(value: int) -> bytes:
    """A whole number as protocol buffers write it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _fields(content: bytes) -> list[tuple[int, int, bytes]]:
    """Number, wire type and bytes of each field; empty for what is no message."""
    fields, place = [], 0

    def varint() -> int:
        nonlocal place
        start = place
        while content[place] & 0x80:
            place += 1
        place += 1
        return sum((byte & 0x7F) << 7 * index for index, byte in enumerate(content[start:place]))

    try:
        while place < len(content):
            tag = varint()
            number, wire, start = tag >> 3, tag & 7, place
            if wire == 0:
                varint()
            elif wire == 2:
                size = varint()
                start, place = place, place + size
            elif wire in (1, 5):
                place += 8 if wire == 1 else 4
            else:
                return []
            if number == 0 or place > len(content):
                return []
            fields.append((number, wire, content[start:place]))
    except IndexError:
        return []
    return fields


def of_safetensors(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One of the safetensors files with its header altered, the announced length right or not."""
    content = random.choice(seeds)
    (size,) = struct.unpack("<Q", content[:8])
    header = changed(random, json.loads(content[8 : 8 + size]))
    text = as_json(random, header)
    length = random.choice((0, 2**63, 2**64 - 1, len(text) + 1)) if random.random() < 0.1 else len(text)
    return struct.pack("<Q", length) + text + content[8 + size :]
