"""The IDX reader: what it reads, and one clear line for every way a file can be wrong."""

import gzip
import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lean_mnist.cache import CACHE_VARIABLE
from lean_mnist.data.idx import read_idx, read_images, read_labels
from lean_mnist.errors import DataError
from lean_mnist.reading.files import GzipStream
from lean_mnist.reading.text import shown
from tests.support.idx_files import write_idx
from tests.support.peak_memory import peak_below


def header(type_code: int, *shape: int, zero: int = 0) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", zero, type_code, len(shape), *shape)


def message_of(call: Callable[[Path], object], path: Path) -> str:
    """The message of the DataError that ``call(path)`` raises; it has to be one line that names the file."""
    with pytest.raises(DataError) as caught:
        call(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", ["file", "file.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 8), (5, 2, 3), (2, 1, 3, 2)])
def test_round_trip(tmp_path: Path, shape: tuple[int, ...], dtype: type, name: str) -> None:
    limits = np.iinfo(dtype)
    array: np.ndarray = np.random.default_rng(1).integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
    write_idx(tmp_path / name, array)
    result = read_idx(tmp_path / name)
    assert result.dtype == np.dtype(dtype)
    assert result.dtype.isnative
    assert result.flags.writeable
    np.testing.assert_array_equal(result, array)
    assert [path.name for path in tmp_path.iterdir()] == [name]  # no temporary file stays


def test_bytes_of_the_format(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_idx(path, np.array([[1, -2]], dtype=np.int32))
    assert path.read_bytes() == bytes.fromhex("00000c02 00000001 00000002 00000001 fffffffe")
    write_idx(path, np.array([1, 255], dtype=np.uint8))
    assert path.read_bytes() == bytes.fromhex("00000801 00000002 01ff")


def test_gzip_is_known_by_content_not_by_name(tmp_path: Path) -> None:
    raw = header(8, 3) + b"\x01\x02\x03"
    (tmp_path / "unpacked.gz").write_bytes(raw)
    (tmp_path / "packed").write_bytes(gzip.compress(raw))
    for name in ("unpacked.gz", "packed"):
        assert read_idx(tmp_path / name).tolist() == [1, 2, 3]
        assert read_idx(os.fspath(tmp_path / name)).tolist() == [1, 2, 3]


FAULTS = {
    "empty": (b"", "holds 0 bytes, expected an IDX header of at least 8"),
    "three bytes": (b"\0\0\x08", "holds 3 bytes, expected an IDX header of at least 8"),
    "web page": (
        b"<!DOCTYPE html>",
        "starts with the bytes 3c 21 44 4f, expected an IDX file, which starts with 00 00",
    ),
    "second byte": (header(8, 1, zero=1) + b"\0", "starts with the bytes 00 01 08 01, expected an IDX file"),
    "float type": (header(0x0D, 1) + b"\0" * 4, "type code 0x0d, expected 0x08 (uint8) or 0x0c (int32)"),
    "no dimensions": (header(8) + b"\0", "declares 0 dimensions, expected 1 to 8"),
    "more than NumPy has": (header(8, *[1] * 65) + b"\0", "declares 65 dimensions, expected 1 to 8"),
    "a chain of one too many": (header(8, *[1] * 9) + b"\0", "declares 9 dimensions, expected 1 to 8"),
    "half a header": (header(8, 5, 28, 28)[:-2], "truncated, holds 14 bytes, its header alone needs 16"),
    "size zero": (header(8, 5, 0, 28), "dimension 1 has size 0 (shape 5 x 0 x 28), expected at least 1"),
    "truncated": (header(8, 2, 3) + b"12345", "truncated, holds 17 bytes, expected 18 for shape 2 x 3"),
    "truncated int32": (header(12, 2, 3) + b"1" * 23, "truncated, holds 35 bytes, expected 36 for shape 2 x 3"),
    "only a header": (header(8, 2, 3), "truncated, holds 12 bytes, expected 18 for shape 2 x 3"),
    "trailing": (header(8, 2, 3) + b"1234567", "trailing bytes, expected the end after 18 for shape 2 x 3"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["raw", "gzip"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults(tmp_path: Path, fault: str, packed: bool) -> None:
    content, expected = FAULTS[fault]
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert expected in message_of(read_idx, path)


@pytest.mark.parametrize("packed", [False, True], ids=["raw", "gzip"])
def test_an_absurd_declared_size_is_not_allocated(tmp_path: Path, packed: bool) -> None:
    largest = 2**32 - 1
    content = header(8, largest, largest, largest) + b"123"
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if packed else content)
    with peak_below(8 << 20):
        message = message_of(read_idx, path)
    assert message.startswith(f"declares {largest**3:,} bytes (shape ")
    assert message.endswith("), expected at most 268,435,456")


@pytest.mark.parametrize(
    ("reader", "start", "expected"),
    [
        (read_idx, header(8, 28, 28), "trailing bytes, expected the end after 796 for shape 28 x 28"),
        (read_idx, b"P5 ", "starts with the bytes 50 35 20 00"),
        (read_images, header(8, 1 << 24), "holds labels"),
        (
            lambda path: read_images(path, (28, 28)),
            header(8, 1 << 14, 32, 32),
            "images of 32x32 pixels, expected 28x28",
        ),
        (read_labels, header(8, 1 << 14, 28, 28), "holds images"),
        (read_labels, header(8, 1 << 24), "declares 16,777,216 labels, expected at most 1,048,576"),
    ],
)
def test_a_bomb_is_unpacked_no_further_than_its_header_says(
    tmp_path: Path, reader: Callable[[Path], object], start: bytes, expected: str
) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(start + bytes(1 << 25), 1))
    with peak_below(4 << 20):
        assert message_of(reader, path).startswith(expected)


def test_damaged_gzip(tmp_path: Path) -> None:
    content = np.random.default_rng(2).integers(0, 256, 4000).astype(np.uint8).tobytes()
    packed = gzip.compress(header(8, 4000) + content)
    path = tmp_path / "file.gz"
    wrong_checksum = packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]
    for damaged in (
        packed[:100],
        packed[:-3],
        wrong_checksum,
        packed[:9],
        packed[:50] + b"\xff" * 60,
        packed + b"junk",
    ):
        path.write_bytes(damaged)
        message = message_of(read_idx, path)
        assert message.startswith("damaged gzip file (")
        assert message.endswith("), expected an IDX file")


def test_missing_folder_and_pipe(tmp_path: Path) -> None:
    missing = "expected an IDX file, found: No such file or directory"
    assert message_of(read_idx, tmp_path / "absent") == missing
    assert message_of(read_idx, tmp_path / "absent" / "file") == missing
    assert message_of(read_idx, tmp_path) == "expected an IDX file, found: a folder"
    os.mkfifo(tmp_path / "pipe")
    assert message_of(read_idx, tmp_path / "pipe") == "expected an IDX file, found: a pipe, socket or device"
    (tmp_path / "endless").symlink_to("/dev/zero")
    assert message_of(read_idx, tmp_path / "endless") == "expected an IDX file, found: a pipe, socket or device"


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(header(8, 1) + b"1")

    def refuse(*arguments: object) -> None:  # permissions do not stop root, who may run these tests
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    assert message_of(read_idx, path) == "expected an IDX file, found: Permission denied"


def test_a_name_with_a_line_break_still_gives_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a\nb"
    with pytest.raises(DataError, match=r"a\\nb': expected an IDX file, found: No such") as caught:
        read_idx(path)
    assert len(str(caught.value).splitlines()) == 1
    assert shown("plain name") == "plain name"


def test_read_images(tmp_path: Path) -> None:
    path = tmp_path / "file"
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(path, array)
    result = read_images(path)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, array)


NO_IMAGES = [
    (np.zeros(4, np.uint8), "holds labels (magic 2049), expected images (magic 2051)"),
    (np.zeros((4, 8), np.int32), "holds QMNIST labels (magic 3074), expected images (magic 2051)"),
    (np.zeros((4, 8), np.uint8), "holds uint8 values, 2-D, expected images (magic 2051)"),
    (np.zeros((4, 8, 8), np.int32), "holds int32 values, 3-D, expected images (magic 2051)"),
]


@pytest.mark.parametrize(("array", "expected"), NO_IMAGES)
def test_other_files_are_no_images(tmp_path: Path, array: np.ndarray, expected: str) -> None:
    write_idx(tmp_path / "file", array)
    assert message_of(read_images, tmp_path / "file") == expected


def test_read_labels(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_idx(path, np.array([0, 9, 3], np.uint8))
    assert read_labels(path).dtype == np.int64
    assert read_labels(path).tolist() == [0, 9, 3]
    extended = np.full((3, 8), -7, np.int32)
    extended[:, 0] = [4, 0, 9]
    write_idx(path, extended)
    assert read_labels(path).dtype == np.int64
    assert read_labels(path).tolist() == [4, 0, 9]


NO_LABELS = [
    (np.zeros((4, 3, 3), np.uint8), "holds images (magic 2051), expected labels (magic 2049)"),
    (np.zeros(4, np.int32), "holds int32 values, 1-D, expected labels (magic 2049)"),
    (np.zeros((4, 7), np.int32), "7 columns of labels, expected 8 (QMNIST)"),
    (np.array([1, 2, 10, 200], np.uint8), "label 10 at index 2, expected 0 to 9"),
    (np.array([[0] * 8, [-1] + [0] * 7], np.int32), "label -1 at index 1, expected 0 to 9"),
]


@pytest.mark.parametrize(("array", "expected"), NO_LABELS)
def test_other_files_are_no_labels(tmp_path: Path, array: np.ndarray, expected: str) -> None:
    write_idx(tmp_path / "file", array)
    assert message_of(read_labels, tmp_path / "file") == expected


def test_the_number_of_classes_sets_the_range(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_idx(path, np.array([0, 25], np.uint8))
    assert read_labels(path, classes=26).tolist() == [0, 25]
    assert message_of(lambda p: read_labels(p, classes=25), path) == "label 25 at index 1, expected 0 to 24"


def test_arrays_of_any_memory_order(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.int32).reshape(2, 3, 4).transpose(2, 0, 1)[:, ::-1]
    write_idx(tmp_path / "file", array)
    np.testing.assert_array_equal(read_idx(tmp_path / "file"), array)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, in which unpacked files of any size are kept."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr("lean_mnist.data.idx._WORTH_KEEPING", 1)
    return tmp_path / "cache"


def test_a_packed_file_is_unpacked_once(tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(2).integers(0, 256, (5, 4, 3)).astype(np.uint8)
    path = tmp_path / "images.gz"
    write_idx(path, array)
    np.testing.assert_array_equal(read_idx(path), array)
    (entry,) = cached.iterdir()
    assert entry.name == f"idx-{hashlib.sha256(path.read_bytes()).hexdigest()}"
    with monkeypatch.context() as patch:
        patch.setattr(GzipStream, "read", lambda *_: pytest.fail("it is unpacked again"))
        found = read_images(path)
        np.testing.assert_array_equal(found, array)
        found[:] = 0  # in memory alone
        np.testing.assert_array_equal(read_idx(path), array)
        with pytest.raises(DataError, match="images of 4x3 pixels, expected 28x28"):
            read_images(path, (28, 28))
        assert message_of(read_labels, path) == "holds images (magic 2051), expected labels (magic 2049)"


def test_a_spoiled_entry_is_made_again(tmp_path: Path, cached: Path) -> None:
    array, other = np.full((5, 4, 3), 7, dtype=np.uint8), np.full((5, 4, 3), 8, dtype=np.uint8)
    path = tmp_path / "images.gz"
    write_idx(path, array)
    read_idx(path)
    (entry,) = cached.iterdir()
    whole = entry.read_bytes()
    spoiled = bytearray(whole)
    spoiled[-1] ^= 1
    for content in (bytes(spoiled), whole[:-1], b""):
        entry.write_bytes(content)
        np.testing.assert_array_equal(read_idx(path), array)
        assert entry.read_bytes() == whole
    write_idx(path, other)  # another file has another entry
    np.testing.assert_array_equal(read_idx(path), other)
    assert len(list(cached.iterdir())) == 2


def test_what_is_damaged_or_not_worth_it_is_not_kept(tmp_path: Path, cached: Path) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(header(8, 3) + b"\1\2\3", mtime=0)[:-1])
    assert "damaged gzip file" in message_of(read_idx, path)
    write_idx(path, np.array([[1, 2]], dtype=np.int32))
    np.testing.assert_array_equal(read_idx(path), [[1, 2]])
    write_idx(tmp_path / "unpacked", np.array([1, 2], dtype=np.uint8))
    read_idx(tmp_path / "unpacked")
    assert not cached.exists() or not list(cached.iterdir())
