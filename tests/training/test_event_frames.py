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
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 2_047, 2_048, 2_049, 4_096, 70_001])
def test_checksums_are_tensorboards(size: int) -> None:
    content = random.Random(size).randbytes(size)
    assert crc32c(content) == theirs(content)
    if size:
        spoiled = bytearray(content)
        spoiled[size // 2] ^= 1
        assert crc32c(bytes(spoiled)) != crc32c(content)


def test_a_frame_is_length_and_content_with_checksums() -> None:
    length = struct.pack("<Q", 5)
    expected = length + struct.pack("<I", masked_crc32c(length)) + b"event" + struct.pack("<I", masked_crc32c(b"event"))
    assert framed(b"event") == expected
