"""The folder of the cache: where it is, and that it is used only where nobody else could have put anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lean_mnist.cache import CACHE_VARIABLE, cache_folder


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
