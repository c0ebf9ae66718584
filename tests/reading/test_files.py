"""Tests of reading files from elsewhere: regular ones only, and bounded."""

import gzip
import os
from pathlib import Path

import pytest

from lean_mnist.errors import CheckpointError, DataError
from lean_mnist.reading.files import read_bytes
from lean_mnist.reading.text import printable, shown


def test_a_regular_file_is_read_packed_or_not(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"hello")
    assert read_bytes(path, "a word") == b"hello"
    path.write_bytes(gzip.compress(b"hello"))
    assert read_bytes(path, "a word", packed=True) == b"hello"
    assert read_bytes(path, "a word").startswith(b"\x1f\x8b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="pipe: expected a word, found: a pipe, socket or device"):
        read_bytes(tmp_path / "pipe", "a word", CheckpointError)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="this system has no /dev/zero")
def test_a_link_to_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "endless").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="endless: expected a word, found: a pipe, socket or device"):
        read_bytes(tmp_path / "endless", "a word")


def test_what_is_no_file(tmp_path: Path) -> None:
    for path, found in ((tmp_path, "a folder"), (tmp_path / "no", "No such file"), (tmp_path / "a\0b", "null")):
        with pytest.raises(DataError, match=f"expected a word, found: .*{found}") as raised:
            read_bytes(path, "a word")
        assert str(raised.value).isprintable()


def test_more_than_asked_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(11))
    assert len(read_bytes(path, "a word", largest=11)) == 11
    with pytest.raises(DataError, match="a: 11 bytes, expected a word of at most 10"):
        read_bytes(path, "a word", largest=10)
    path.write_bytes(gzip.compress(bytes(1001)))
    with pytest.raises(DataError, match="a: more than 1,000 bytes, expected a word"):
        read_bytes(path, "a word", largest=1000, packed=True)


def test_foreign_text_is_one_line_without_commands() -> None:
    assert printable("a\nb\x1b[2Jc\u202ed\udcff") == "a\\nb\\x1b[2Jc\\u202ed\\udcff"
    assert printable("x" * 1000, 5) == "xxxx…"
    assert shown("plain name") == "plain name"
    assert shown("a\nb\udcff") == "'a\\nb\\udcff'"
