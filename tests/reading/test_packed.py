"""Tests of unpacking gzip files as far as they are read."""

import gzip
import io
import random

import pytest

from lean_mnist.reading.files import GzipDamaged, GzipStream
from tests.support.peak_memory import peak_below


def unpacked(content: bytes, *sizes: int) -> list[bytes]:
    stream = GzipStream(io.BytesIO(content))
    return [stream.read(size) for size in sizes]


def test_parts_members_and_padding() -> None:
    content = random.Random(1).randbytes(100_000)
    packed = gzip.compress(content[:70_000]) + gzip.compress(b"") + gzip.compress(content[70_000:]) + bytes(40_000)
    assert unpacked(packed, 1, 69_998, 5, 0, 1 << 30, 7) == [
        content[:1], content[1:69_999], content[69_999:70_004], b"", content[70_004:], b""
    ]  # fmt: skip


@pytest.mark.parametrize("cut", [0, 1, 9, 20, 60, -9, -8, -1])
def test_what_ends_early(cut: int) -> None:
    packed = gzip.compress(random.Random(2).randbytes(100))
    with pytest.raises(GzipDamaged, match="it ends early"):
        unpacked(packed[:cut], 101)


def test_damage_is_found_at_the_latest_at_the_end() -> None:
    packed = bytearray(gzip.compress(random.Random(3).randbytes(50)))
    for place in range(len(packed)):
        if 3 <= place < 10:  # what is text, when, how and where it was packed: they change nothing
            continue
        damaged = bytearray(packed)
        damaged[place] ^= 1
        with pytest.raises(GzipDamaged):
            unpacked(bytes(damaged), 1000)
    with pytest.raises(GzipDamaged):
        unpacked(bytes(packed) + b"junk", 51)


def test_a_bomb_is_unpacked_no_further_than_it_is_read() -> None:
    bomb = gzip.compress(bytes(1 << 26))
    with peak_below(1 << 20):
        assert unpacked(bomb, 10) == [bytes(10)]


def test_a_file_of_empty_members_is_refused() -> None:
    with pytest.raises(GzipDamaged, match="more than 65,536 members"):
        unpacked(gzip.compress(b"") * (1 << 17), 1)
