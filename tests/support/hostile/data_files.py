"""Data that lie: IDX files, their gzip, and lines of numbers for perceptrons."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Sequence

from tests.support.hostile.archives import deflated_zeros
from tests.support.hostile.attack import Hostile, Sandbox

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(*shape: int, code: int = 8, content: bytes | None = None) -> bytes:
    """An IDX file of this shape; of zeros if not given."""
    header = struct.pack(f">HBB{len(shape)}I", 0, code, len(shape), *shape)
    size = 1
    for each in shape:
        size *= each
    return header + (bytes(size) if content is None else content)


def honest() -> dict[str, bytes]:
    """Four small files that would be read."""
    return {name: idx(20, 28, 28) if "images" in name else idx(20, content=bytes(range(10)) * 2) for name in NAMES}


def with_file(index: int, content: bytes, end: str = "") -> Callable[[Sandbox], Sequence[str]]:
    """``train --dataset mnist`` on a folder in which one of the four files is another."""

    def build(sandbox: Sandbox) -> Sequence[str]:
        raw = sandbox.work / "data" / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for name, each in honest().items():
            (raw / name).write_bytes(each)
        (raw / NAMES[index]).unlink()
        (raw / (NAMES[index] + end)).write_bytes(content)
        return "train", "--dataset", "mnist", "--data-dir", "data", "--epochs", "1", "--validation-size", "5"

    return build


def gzip_bomb(header: bytes, mebibytes: int) -> bytes:
    """A gzip file of a header and zeros, hundreds of times its size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros, _, size = deflated_zeros(mebibytes)
    crc = zlib.crc32(header)
    for _ in range(mebibytes):
        crc = zlib.crc32(bytes(1 << 20), crc)
    total = (size + len(header)) & 0xFFFFFFFF
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + start + zeros + struct.pack("<II", crc, total)


def lines(text: bytes) -> Callable[[Sandbox], Sequence[str]]:
    """``learners`` on a file of lines."""

    def build(sandbox: Sandbox) -> Sequence[str]:
        (sandbox.work / "test.dat").write_bytes(b"0,1.5,True\n")
        (sandbox.work / "train.dat").write_bytes(text)
        return "learners", "--test", "test.dat", "--train", "train.dat"

    return build


_BOMB = gzip_bomb(idx(1 << 17, 64, 64, content=b""), 512)
_DATA: dict[str, tuple[int, bytes, str]] = {
    "70 dimensions": (0, idx(*[1] * 70), ""),
    "255 dimensions": (0, idx(*[1] * 255), ""),
    "255 dimensions of 2^32": (0, idx(*[0xFFFFFFFF] * 255, content=b""), ""),
    "a product of 2^64": (0, idx(1 << 31, 1 << 31, 4, content=b""), ""),
    "images of 512 MiB in gzip": (0, _BOMB, ".gz"),
    "labels of 512 MiB in gzip": (1, gzip_bomb(idx(1 << 29, content=b""), 512), ".gz"),
    "labels that are images": (1, idx(20, 28, 28), ""),
    "a million members of gzip": (0, gzip.compress(b"", mtime=0) * 200_000, ".gz"),
    "gzip in gzip": (0, gzip.compress(gzip.compress(idx(20, 28, 28))), ".gz"),
    "gzip cut off": (0, gzip.compress(idx(20, 28, 28))[:-6], ".gz"),
    "gzip of another sum": (0, gzip.compress(idx(20, 28, 28))[:-8] + b"\0" * 8, ".gz"),
    "no images": (2, idx(0, 28, 28), ""),
    "no labels": (3, idx(0), ""),
    "images of no rows": (0, idx(20, 0, 28), ""),
    "images of one pixel": (0, idx(20, 1, 1), ""),
    "fewer images": (0, idx(19, 28, 28), ""),
    "a label of 10": (1, idx(20, content=bytes([10]) * 20), ""),
    "a label of 255": (3, idx(20, content=bytes([255]) * 20), ""),
    "floating images": (0, idx(20, 28, 28, code=0x0D), ""),
    "bytes behind the end": (0, idx(20, 28, 28) + b"x", ""),
    "half a header": (0, b"\0\0\x08\x03\0\0", ""),
    "nothing": (0, b"", ""),
    "a page of a web server": (0, b"<html><body>\x1b[2J\n404</body></html>", ""),
}
_LINES: dict[str, bytes] = {
    "NaN": b"0,nan,True\n",
    "infinities": b"0,1e999,True\n",
    "5,000 digits": b"0," + b"9" * 5_000 + b",True\n",
    "an exponent of 10^9": b"0,1e1000000000,True\n",
    "a fraction of 10^6 digits": b"0,0." + b"1" * 1_000_000 + b",True\n",
    "an exact half with an exponent of -10^8": b"0,1.00000005960464477539062500e-0,True\n1e-100000000",
    "escapes": b"0,\x1b[2J,True\n",
    "no ASCII": "0,１,True\n".encode(),
    "null bytes": b"0,1\x00,True\n",
    "a million columns": b"0," + b"," * 1_000_000 + b"True\n",
    "a million lines": b"\n" * 1_000_000,
    "underscores": b"0,1_0,True\n",
    "nothing": b"",
    "other separators": b"0,1.5,True\x0b\x0c0,1.5,True\n",
}

HARMLESS = ("a fraction of 10^6 digits",)
HOSTILE = [
    *(
        Hostile(f"IDX: {name}", with_file(index, content, end), says=NAMES[index].split("-")[0])
        for name, (index, content, end) in _DATA.items()
    ),
    *(
        Hostile(f"lines: {name}", lines(content), says="train.dat", either=name in HARMLESS)
        for name, content in _LINES.items()
    ),
]
