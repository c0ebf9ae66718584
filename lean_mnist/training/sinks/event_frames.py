"""Frames of TensorBoard's event files, TFRecord: length, its checksum, content, its checksum (masked CRC-32C).

TensorBoard's own writer takes longer to import than a run's events take to write, and a microsecond for ten bytes.
"""

import struct

import numpy as np
import numpy.typing as npt

_POLYNOMIAL = np.uint32(0x82F63B78)  # CRC-32C (RFC 3720, section 12.1), lowest bit first
_LANES = 1024


def framed(content: bytes) -> bytes:
    """``content`` as one frame."""
    length = struct.pack("<Q", len(content))
    return b"".join([length, _masked(crc32c(length)), content, _masked(crc32c(content))])


def _masked(checksum: int) -> bytes:
    """As TFRecord stores a checksum: turned by 15 bits, plus a constant."""
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(content: bytes) -> int:
    """CRC-32C of ``content``; of long ones by a thousand parts at once."""
    checksum = 0xFFFFFFFF
    if len(content) < 2 * _LANES:
        for byte in content:
            checksum = _BYTES[(checksum ^ byte) & 255] ^ checksum >> 8
        return checksum ^ 0xFFFFFFFF
    # Zeros in front change nothing where the checksum starts at 0; a start at all ones inverts the first four bytes.
    parts = np.zeros((_LANES, -(-len(content) // _LANES)), dtype=np.uint8)
    padded = parts.reshape(-1)[-len(content) :]
    padded[:] = np.frombuffer(content, dtype=np.uint8)
    padded[:4] ^= 255
    # Beside the parts' checksums: each byte's in each of four places, moved past as many zeros as a part has bytes.
    states = np.zeros(2 * _LANES, dtype=np.uint32)
    states[_LANES:] = [byte << place for place in (0, 8, 16, 24) for byte in range(256)]
    for column in parts.T:
        states[:_LANES] ^= column
        states = _TABLE[states & 255] ^ states >> 8
    moved, checksum = states[_LANES:].tolist(), 0
    for own in states[:_LANES].tolist():
        low, high = checksum & 0xFFFF, checksum >> 16
        checksum = moved[low & 255] ^ moved[256 + (low >> 8)] ^ moved[512 + (high & 255)] ^ moved[768 + (high >> 8)]
        checksum ^= own
    return checksum ^ 0xFFFFFFFF


def _table() -> npt.NDArray[np.uint32]:
    """Checksum of each byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> 1 ^ (table & 1) * _POLYNOMIAL
    return table


_TABLE = _table()
_BYTES: list[int] = _TABLE.tolist()
