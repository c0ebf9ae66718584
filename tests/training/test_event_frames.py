"""Frames of events, and their checksum, against TensorBoard's own and by hand."""

from __future__ import annotations

import random
import struct

import pytest
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c as theirs
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from lean_mnist.training.sinks.event_frames import crc32c, framed


def test_the_checksum_of_the_standard() -> None:
    """RFC 3720, appendix B.4, and the nine digits of every catalogue of checksums."""
    assert crc32c(bytes(32), b"\xff" * 32, b"123456789") == [0x8A9136AA, 0x62A8AB43, 0xE3069283]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 511, 512, 513, 515, 1_024, 70_001])
def test_checksums_are_tensorboards(size: int) -> None:
    content = random.Random(size).randbytes(size)
    spoiled = bytearray(content)
    if size:
        spoiled[size // 2] ^= 1
    found = crc32c(content, b"another", bytes(spoiled))
    assert found == [theirs(content), theirs(b"another"), theirs(bytes(spoiled))]
    assert size == 0 or found[0] != found[2]


def test_a_frame_is_length_and_content_with_checksums() -> None:
    expected = b""
    for content in (b"event", b"", b"a longer one" * 100):
        length = struct.pack("<Q", len(content))
        expected += length + struct.pack("<I", masked_crc32c(length)) + content
        expected += struct.pack("<I", masked_crc32c(content))
    assert framed(b"event", b"", b"a longer one" * 100) == expected
