"""Checkpoints as archives: what a zip can lie about, and what a pickle can ask for."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tests.support.hostile.attack import Hostile, Sandbox

Entries = list[tuple[str, bytes]]


def entries_of(path: Path) -> Entries:
    """The names and contents of the entries of a zip file."""
    with zipfile.ZipFile(path) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def packed(entries: Entries, how: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    """A zip file of these entries."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", how) as archive:
        warnings.simplefilter("ignore")  # names that are there already
        for name, content in entries:
            archive.writestr(name, content)
        archive.comment = comment
    return buffer.getvalue()


def deflated_zeros(pieces: int, piece: int = 1 << 20, byte: bytes = b"\0") -> tuple[bytes, int, int]:
    """Raw deflate of ``pieces`` times ``piece`` equal bytes, made without holding them; their CRC and number."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(byte * piece) + packer.flush(zlib.Z_FULL_FLUSH)
    crc = 0
    for _ in range(pieces):
        crc = zlib.crc32(byte * piece, crc)
    return block * pieces + zlib.compressobj(9, zlib.DEFLATED, -15).flush(), crc, pieces * piece


def raw_zip(entries: Sequence[tuple[str, bytes, int, int, int]]) -> bytes:
    """A zip file of entries that are packed already: name, packed content, CRC, size, method."""
    body, directory = b"", b""
    for name, content, crc, size, method in entries:
        fields = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 0, crc, len(content), size, len(name), 0)
        more = struct.pack("<HHHII", 0, 0, 0, 0, len(body))
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + fields + more + name.encode()
        body += b"PK\x03\x04" + fields + name.encode() + content
    number = len(entries)
    end = struct.pack("<HHHHIIH", 0, 0, number, number, len(directory), len(body), 0)
    return body + directory + b"PK\x05\x06" + end


def repacked(change: Callable[[Entries], Entries], how: int = zipfile.ZIP_STORED) -> Callable[[Sandbox], Sequence[str]]:
    """``evaluate best.pt`` with other entries in its archive."""

    def build(sandbox: Sandbox) -> Sequence[str]:
        sandbox.best.write_bytes(packed(change(entries_of(sandbox.best)), how))
        return "evaluate", str(sandbox.best)

    return build


def altered(change: Callable[[bytes], bytes]) -> Callable[[Sandbox], Sequence[str]]:
    """``evaluate best.pt`` with other bytes in it."""

    def build(sandbox: Sandbox) -> Sequence[str]:
        sandbox.best.write_bytes(change(sandbox.best.read_bytes()))
        return "evaluate", str(sandbox.best)

    return build


def with_pickle(content: bytes, resume: bool = False) -> Callable[[Sandbox], Sequence[str]]:
    """``evaluate best.pt``, or ``--resume last.pt``, with metrics that are what these opcodes leave."""

    def build(sandbox: Sandbox) -> Sequence[str]:
        path = sandbox.last if resume else sandbox.best
        more = text("metrics") + content + b"s."
        entries = [(name, old[:-1] + more if name.endswith("data.pkl") else old) for name, old in entries_of(path)]
        path.write_bytes(packed(entries))
        return ("train", "--resume", str(path)) if resume else ("evaluate", str(path))

    return build


def _bomb(which: str, pieces: int, byte: bytes) -> Callable[[Sandbox], Sequence[str]]:
    def build(sandbox: Sandbox) -> Sequence[str]:
        made = []
        for name, content in entries_of(sandbox.best):
            deflated, crc, size = content, zlib.crc32(content), len(content)
            method = 0
            if name.endswith(which):
                (deflated, crc, size), method = deflated_zeros(pieces, byte=byte), 8
            made.append((name, deflated, crc, size, method))
        sandbox.best.write_bytes(raw_zip(made))
        return "evaluate", str(sandbox.best)

    return build


def _overlapping(sandbox: Sandbox) -> Sequence[str]:
    entries = [(name, content, zlib.crc32(content), len(content), 0) for name, content in entries_of(sandbox.best)]
    big = b"\0" * (1 << 20)
    content = raw_zip([*entries, ("best/data/big", big, zlib.crc32(big), len(big), 0)])
    end = content.rindex(b"PK\x05\x06")
    start = struct.unpack("<I", content[end + 16 : end + 20])[0]
    last = content.rindex(b"PK\x01\x02")
    again = b"".join(content[last:end].replace(b"data/big", f"data/{number:03}".encode()) for number in range(900))
    fields = struct.pack("<HHHHIIH", 0, 0, len(entries) + 901, len(entries) + 901, end - start + len(again), start, 0)
    sandbox.best.write_bytes(content[:end] + again + b"PK\x05\x06" + fields)
    return "evaluate", str(sandbox.best)


def _field(magic: bytes, offset: int, code: str, value: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        out = bytearray(content)
        struct.pack_into(f"<{code}", out, content.index(magic) + offset, value)
        return bytes(out)

    return change


def _tar(sandbox: Sandbox) -> Sequence[str]:
    with tarfile.open(sandbox.best, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(1 << 40, protocol=2) * 3
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return "evaluate", str(sandbox.best)


def _legacy(sandbox: Sandbox) -> Sequence[str]:
    content = sandbox.content(sandbox.best)
    torch.save(content, sandbox.best, _use_new_zipfile_serialization=False)
    text = sandbox.best.read_bytes()
    sandbox.best.write_bytes(text.replace(struct.pack("<q", 40), struct.pack("<q", 1 << 40)))
    return "evaluate", str(sandbox.best)


def _script(sandbox: Sandbox) -> Sequence[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.script(torch.nn.Linear(2, 2))
        torch.jit.save(module, str(sandbox.best))
    return "evaluate", str(sandbox.best)


def _many(entries: Entries) -> Entries:
    return [*entries, *((f"best/data/x{number}", b"") for number in range(60_000))]


# -- pickles ----------------------------------------------------------------------------------------------------------

REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(word: str) -> bytes:
    """The opcode for a string."""
    content = word.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(content)) + content


def number(value: int) -> bytes:
    """The opcode for a whole number."""
    content = pickle.encode_long(value)
    return (
        b"\x8a" + bytes([len(content)]) + content
        if len(content) < 256
        else b"\x8b" + struct.pack("<i", len(content)) + content
    )


def storage(numel: int, key: str = "0", location: str = "cpu", kind: str = "FloatStorage") -> bytes:
    """The persistent id of a storage."""
    name = f"ctorch\n{kind}\n".encode()
    return b"(" + text("storage") + name + text(key) + text(location) + number(numel) + b"tQ"


def tensor(numel: int, shape: bytes, stride: bytes, offset: int = 0, **options: str) -> bytes:
    """The call that rebuilds a tensor on a storage."""
    hooks = b"ccollections\nOrderedDict\n)R"
    return REBUILD + b"(" + storage(numel, **options) + number(offset) + shape + stride + b"\x89" + hooks + b"tR"


def tuple_of(*values: int) -> bytes:
    """The opcodes for a tuple of whole numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def put(place: int) -> bytes:
    """The opcode that keeps the top of the stack in a place of the memo."""
    return b"q" + bytes([place])


def shared(levels: int, opening: bytes, closing: bytes, place: int = 200) -> bytes:
    """A nest in which every level holds the one below twice, by the memo: 2^levels leaves."""
    if not levels:
        return opening + b"K\x01" + closing + put(place)
    inner = shared(levels - 1, opening, closing, place - 1)
    return opening + inner + b"h" + bytes([place - 1]) + closing + put(place)


_ONE, _FOUR = tuple_of(1), tuple_of(4)
_SHARED_LIST, _SHARED_TUPLE = shared(40, b"](", b"e"), shared(40, b"(", b"t")
_COLLIDING = b"".join(number((2**61 - 1) * (1 + k)) + b"N" for k in range(30_000))

PICKLES: dict[str, bytes] = {
    "calls os.system": b"cos\nsystem\n" + text("touch ../outside/ran") + b"\x85R",
    "calls eval": b"cbuiltins\neval\n" + text("open('../outside/ran','w')") + b"\x85R",
    "imports a module beside it": b"ctrap\nrun\n)R",
    "INST of a trap": b"(" + text("x") + b"itrap\nrun\n",
    "NEWOBJ of Popen": b"csubprocess\nPopen\n" + text("true") + b"\x85\x81",
    "EXT1": b"\x82\x01",
    "a torch name that is dangerous": b"ctorch\nload\n" + text("/etc/passwd") + b"\x85R",
    "torch.hub": b"ctorch.hub\nload\n" + text("x") + b"\x85R",
    "attribute of an allowed module": b"ctorch._utils\n_import_dotted_name\n" + text("trap") + b"\x85R",
    "a bytearray of 4 GiB": b"cbuiltins\nbytearray\n" + number(1 << 32) + b"\x85R",
    "storage of 2^50 numbers": tensor(1 << 50, _FOUR, _ONE),
    "storage of -1 numbers": tensor(-1, _FOUR, _ONE),
    "storage out of another entry": tensor(4, _FOUR, _ONE, key="../data.pkl"),
    "storage of no entry": tensor(4, _FOUR, _ONE, key="\x1b[2J\n"),
    "storage on cuda": tensor(4, _FOUR, _ONE, location="cuda:99"),
    "storage on an escape": tensor(4, _FOUR, _ONE, location="\x1b[31m\nfine"),
    "storage of a class of ours": tensor(4, _FOUR, _ONE, kind="Tensor"),
    "stride 0 over 2^33 numbers": tensor(4, tuple_of(1 << 33), tuple_of(0)),
    "negative stride": tensor(4, _FOUR, tuple_of(-1)),
    "negative offset": tensor(4, _FOUR, _ONE, offset=-(1 << 40)),
    "offset behind the storage": tensor(4, _FOUR, _ONE, offset=1 << 40),
    "shape whose product overflows": tensor(4, tuple_of(1 << 33, 1 << 33), tuple_of(1, 1)),
    "a thousand dimensions": tensor(4, tuple_of(*[1] * 1_000), tuple_of(*[1] * 1_000)),
    "shared lists, 2^40 leaves": _SHARED_LIST,
    "shared tuples, 2^40 leaves": _SHARED_TUPLE,
    "a key of shared tuples": b"}" + _SHARED_TUPLE + b"Ns",
    "30,000 keys of one hash": b"}(" + _COLLIDING + b"u",
    "a list in itself": b"]q\x00h\x00a",
    "a dictionary in itself": b"}q\x00" + text("y") + b"h\x00s",
    "a million marks": b"(" * 1_000_000,
    "lists a million deep": b"]" * 1_000_000 + b"a" * 999_999,
    "tuples a million deep": b"K\x01" + b"\x85" * 1_000_000,
    "dictionaries 100,000 deep": b"}" + (b"X\x01\x00\x00\x00a}" * 100_000) + b"s" * 100_000,
    "a number of ten million digits": b"\x8b" + struct.pack("<i", 4_150_000) + b"\x7f" * 4_150_000,
    "a decimal of a million digits": b"I" + b"9" * 1_000_000 + b"\n",
    "a string that is longer than the file": b"X\xff\xff\xff\x7fabc",
    "bytes that are longer than the file": b"\x8e" + struct.pack("<Q", 1 << 62) + b"abc",
    "a frame of 2^63 bytes": b"\x95" + struct.pack("<Q", 1 << 63) + b"N",
    "BUILD with attributes of a class": b"ccollections\nOrderedDict\n)R}" + text("__class__") + text("x") + b"sb",
    "BUILD of a tensor": tensor(4, _FOUR, _ONE) + b"}" + text("data") + b"Nsb",
    "a key that has no hash": b"}]Ns",
    "SETITEMS of a number": b"K\x01(K\x01K\x02u",
    "a memo place of 2^31": b"Nr\xff\xff\xff\x7fj\xfe\xff\xff\x7f",
    "a counter of a bomb": b"ccollections\nCounter\n" + _SHARED_LIST + b"\x85R",
    "a sparse tensor": b"ctorch._utils\n_rebuild_sparse_tensor\nN" + tuple_of(1 << 40, 1 << 40) + b"\x86R",
    "a meta tensor": b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(ctorch\nfloat32\n" + _FOUR + _ONE + b"\x89tR",
    "a tensor of a subclass": b"ctorch._tensor\n_rebuild_from_type_v2\n(" + REBUILD + b"ctrap\nrun\n)NtR",
    "a set of unhashables": b"cbuiltins\nset\n]]a\x85R",
    "codecs": b"c_codecs\nencode\n" + text("x") + text("zip") + b"\x86R",
}

HOSTILE = [
    Hostile("a storage deflated from 512 MiB", _bomb("data/0", 512, b"\0")),
    Hostile("a pickle deflated from 512 MiB", _bomb("data.pkl", 512, b"N")),
    Hostile("entries on top of each other", _overlapping),
    Hostile("60,000 entries", repacked(_many)),
    Hostile("a doubled data.pkl", repacked(lambda all: [*all, (all[0][0], b"\x80\x02cos\nsystem\n.")])),
    Hostile(
        "a doubled storage", repacked(lambda all: [*all, next((n, c[::-1]) for n, c in all if n.endswith("data/0"))])
    ),
    Hostile("names that leave the archive", repacked(lambda all: [(f"../../{n}", c) for n, c in all])),
    Hostile(
        "big-endian numbers", repacked(lambda all: [(n, b"big" if n.endswith("byteorder") else c) for n, c in all])
    ),
    Hostile(
        "a version of 4,000 digits",
        repacked(lambda all: [(n, b"9" * 4_000 if n.endswith("version") else c) for n, c in all]),
        either=True,
    ),
    Hostile("constants.pkl", repacked(lambda all: [*all, ("best/constants.pkl", b"\x80\x02).")])),
    Hostile("deflated as a whole", repacked(lambda all: all, zipfile.ZIP_DEFLATED), either=True),
    Hostile("an entry of 4 GiB in the directory", altered(_field(b"PK\x01\x02", 24, "I", 0xFFFFFFFE))),
    Hostile("an entry of another size in its header", altered(_field(b"PK\x03\x04", 22, "I", 0x7FFFFFFF)), either=True),
    Hostile("a directory behind the file", altered(_field(b"PK\x05\x06", 16, "I", 0xFFFFFF00)), either=True),
    Hostile("65,535 entries announced", altered(_field(b"PK\x05\x06", 10, "H", 0xFFFF)), either=True),
    Hostile("an encrypted entry", altered(_field(b"PK\x01\x02", 8, "H", 1)), either=True),
    Hostile("a method that nobody knows", altered(_field(b"PK\x01\x02", 10, "H", 99))),
    Hostile("a script in front", altered(lambda content: b"#!/bin/sh\ntouch ../outside/ran\n" + content), either=True),
    Hostile("cut in the middle", altered(lambda content: content[: len(content) // 2])),
    Hostile("nothing", altered(lambda content: b"")),
    Hostile("a megabyte of zeros", altered(lambda content: bytes(1 << 20))),
    Hostile("a tar of announced sizes", _tar),
    Hostile("a file of the old format, 2^40 numbers announced", _legacy),
    Hostile("a TorchScript module", _script),
    *(Hostile(f"pickle: {name}", with_pickle(content)) for name, content in PICKLES.items()),
    # Where it is refused a run may go on from the checkpoint before it.
    *(
        Hostile(f"--resume: {name}", with_pickle(PICKLES[name], resume=True), either=True)
        for name in (
            "calls os.system",
            "shared lists, 2^40 leaves",
            "storage of 2^50 numbers",
            "a key of shared tuples",
        )
    ),
]
