"""Frames of TensorBoard's event files, TFRecord: length, its checksum, content, its checksum (masked CRC-32C).

TensorBoard's own writer takes longer to import than a run's events take to write, and a microsecond for ten bytes.
"""

import functools
import itertools
import struct

import numpy as np
import numpy.typing as npt

_POLYNOMIAL = np.uint32(0x82F63B78)  # CRC-32C (RFC 3720, section 12.1), lowest bit first
_PART = 512


def framed(*contents: bytes) -> bytes:
    """Each of ``contents`` as one frame; many together take little longer than one."""
    lengths = [struct.pack("<Q", len(content)) for content in contents]
    checksums = list(map(_masked, crc32c(*lengths, *contents)))
    return b"".join(itertools.chain(*zip(lengths, checksums, contents, checksums[len(contents) :], strict=False)))


def _masked(checksum: int) -> bytes:
    """As TFRecord stores a checksum: turned by 15 bits, plus a constant."""
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(*contents: bytes) -> list[int]:
    """CRC-32C of each of ``contents``: the exclusive or of what each byte gives where it stands, in parts of them."""
    counts, end = [-(-len(content) // _PART) for content in contents], 0
    parts = np.zeros((sum(counts), _PART), dtype=np.uint8)
    for content, count in zip(contents, counts, strict=True):
        end += count
        # Zeros in front change nothing where the checksum starts at 0; a start at all ones inverts the first bytes.
        padded = parts[:end].reshape(-1)[end * _PART - len(content) :]
        padded[:] = np.frombuffer(content, dtype=np.uint8)
        padded[:4] ^= 255
    table, past = _table()
    places = np.arange(0, table.size, 256) + parts
    of_parts, checksums = iter(np.bitwise_xor.reduce(table.take(places), axis=1).tolist()), list[int]()
    for content, count in zip(contents, counts, strict=True):
        checksum = 0
        for own in itertools.islice(of_parts, count):
            a, b, c, d = checksum.to_bytes(4, "little")
            checksum = own ^ past[0][a] ^ past[1][b] ^ past[2][c] ^ past[3][d]
        checksums.append(checksum ^ 0xFFFFFFFF >> 8 * len(content[:4]) ^ 0xFFFFFFFF)
    return checksums


@functools.cache
def _table() -> tuple[npt.NDArray[np.uint32], list[list[int]]]:
    """Checksum of a part that is zero but for one byte: (place, byte); and what bytes of a checksum become past one."""
    table = np.empty((_PART, 256), dtype=np.uint32)
    state = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        state = state >> 1 ^ (state & 1) * _POLYNOMIAL
    bytewise = table[-1] = state
    for place in range(_PART - 2, -1, -1):
        table[place] = state = bytewise[state & 255] ^ state >> 8
    return table, table[:4].tolist()
