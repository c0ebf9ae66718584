"""The cache: where it is, that nobody else could have put anything there, and that what is spoiled is not used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lean_mnist.cache import CACHE_VARIABLE, cache_folder, keep, recall


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the variable names, and that is not there yet."""
    folder = tmp_path / "cache" / "here"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


def test_the_folder_that_the_variable_names_is_made_for_its_owner_alone(named: Path) -> None:
    assert cache_folder() == named.resolve()
    assert named.stat().st_mode & 0o777 == 0o700
    assert cache_folder() == named.resolve(), "and is found again"


def test_an_empty_variable_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "")
    assert cache_folder() is None


def test_without_the_variable_it_is_where_caches_of_this_user_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == (tmp_path / "xdg" / "lean_mnist").resolve()
    for none in ("", "relative"):  # the standard says that a relative one does not count
        monkeypatch.setenv("XDG_CACHE_HOME", none)
        assert cache_folder() == (tmp_path / "home" / ".cache" / "lean_mnist").resolve()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_to_which_others_may_write_is_not_used(named: Path, mode: int) -> None:
    named.mkdir(parents=True)
    named.chmod(mode)
    assert cache_folder() is None


def test_a_folder_that_others_could_exchange_is_not_used(named: Path) -> None:
    named.mkdir(parents=True)
    named.parent.chmod(0o777)
    assert cache_folder() is None
    named.parent.chmod(0o1777)  # there each can rename but what is his own, as in /tmp
    assert cache_folder() == named.resolve()


def test_a_folder_behind_a_link_is_judged_where_it_is(named: Path, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    named.parent.mkdir()
    named.symlink_to(tmp_path / "open" / "cache", target_is_directory=True)
    assert cache_folder() is None, "a link that leads nowhere"
    (tmp_path / "open" / "cache").mkdir()
    assert cache_folder() is None
    (tmp_path / "open").chmod(0o700)
    assert cache_folder() == (tmp_path / "open" / "cache").resolve()


def test_a_folder_of_another_user_is_not_used(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() is not None
    monkeypatch.setattr(os, "getuid", lambda: named.stat().st_uid + 1)
    assert cache_folder() is None


@pytest.mark.parametrize("path", ["FILE", "FILE/below", "FILE\0", "~nobody-of-this-name/cache"])
def test_where_no_folder_can_be_made_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (tmp_path / "file").touch()
    named = path.replace("FILE", str(tmp_path / "file"))
    monkeypatch.setattr(os, "environ", {**os.environ, CACHE_VARIABLE: named})  # the true one takes no null byte
    assert cache_folder() is None


def test_what_was_kept_is_recalled_and_can_be_written_without_changing_it(named: Path) -> None:
    assert recall("entry") is None
    keep("entry", b"of two", memoryview(b" parts"))
    for _ in range(2):
        found = recall("entry")
        assert found is not None
        assert bytes(found) == b"of two parts"
        found[0] = 0
    assert [path.name for path in named.iterdir()] == ["entry"]
    keep("entry", b"another")
    assert bytes(recall("entry") or b"") == b"another"


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


SPOILED: dict[str, Callable[[Path], object]] = {
    "a bit flipped": _flip,
    "cut short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: os.truncate(path, 0),
    "its digest alone": lambda path: os.truncate(path, 32),
    "the entry of another name": lambda path: path.replace(path.with_name("entry")),
    "writable by others": lambda path: path.chmod(0o606),
    "a link": lambda path: path.rename(path.with_name("moved")).with_name("entry").symlink_to("moved"),
    "a folder": lambda path: path.rename(path.with_name("moved")).with_name("entry").mkdir(),
    "a pipe": lambda path: os.mkfifo(path.rename(path.with_name("moved")).with_name("entry")),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_a_spoiled_entry_is_none(named: Path, fault: str) -> None:
    name = "other" if fault == "the entry of another name" else "entry"
    keep(name, b"content")
    SPOILED[fault](named / name)
    assert recall("entry") is None


def test_the_entry_of_another_user_is_none(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep("entry", b"content")
    found = os.stat(named / "entry")
    foreign = os.stat_result((*found[:4], found.st_uid + 1, *found[5:]))
    monkeypatch.setattr(os, "fstat", lambda descriptor: foreign)
    assert recall("entry") is None


def test_where_nothing_can_be_written_nothing_happens(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", lambda *_: os.stat("/dev/null/full"))  # an OSError
    keep("entry", b"content")
    assert list(named.iterdir()) == [], "no temporary file stays"
    monkeypatch.setenv(CACHE_VARIABLE, "")
    keep("entry", b"content")
    assert recall("entry") is None


def test_two_processes_at_once_keep_one_whole_entry(named: Path) -> None:
    code = (
        "import sys; from lean_mnist.cache import keep, recall\n"
        "for _ in range(30):\n"
        "    keep('entry', bytes([int(sys.argv[1])]) * 300_000)\n"
        "    found = recall('entry'); assert found is not None and len(set(found)) == 1 and len(found) == 300_000\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, number]) for number in "12"]
    assert [process.wait() for process in both] == [0, 0]
    assert [path.name for path in named.iterdir()] == ["entry"]


def _writer(at_its_end: str) -> subprocess.Popen[bytes]:
    """A process that keeps an entry, and does this once all is written but the name."""
    code = f"import os, sys; from lean_mnist.cache import keep; rename = os.replace\ndef end(*names): {at_its_end}\n"
    code += "os.replace = end; keep('entry', b'content')"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_the_next_to_write_removes_what_a_killed_process_left(named: Path) -> None:
    with _writer("os.kill(os.getpid(), 9)") as writer:
        assert writer.wait() == -9
    assert [path.suffix for path in named.iterdir()] == [".tmp"]
    (named / ".of-its-owner.tmp").touch()
    keep("other", b"content")
    assert sorted(path.name for path in named.iterdir()) == [".of-its-owner.tmp", "other"]


def test_what_another_process_is_writing_stays(named: Path) -> None:
    with _writer("print('written', flush=True); sys.stdin.read(); rename(*names)") as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        keep("other", b"content")
        writer.communicate()
    assert bytes(recall("entry") or b"") == b"content"
    assert sorted(path.name for path in named.iterdir()) == ["entry", "other"]
