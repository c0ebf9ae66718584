"""Libraries of C: compiled once, kept, and never loaded if they are not what was written; runs without a compiler."""

import ctypes
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lean_mnist import train
from lean_mnist.nn.engine import library
from lean_mnist.nn.engine.library import CannotCompile, find_compiler
from tests.support.training_cases import call, named, records_in, surroundings

load = library.load_library.__wrapped__  # what a process has loaded once it loads no more


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LEAN_MNIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def source(folder: Path, number: int, name: str = "answer.c") -> Path:
    path = folder / name
    path.write_text(f"int answer(void) {{ return {number}; }}\n")
    return path


def answer(library: ctypes.CDLL) -> int:
    found: int = library.answer()
    return found


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    found, compile_ = [], library._compile

    def counted(command: list[str]) -> None:
        found.append(command)
        compile_(command)

    monkeypatch.setattr(library, "_compile", counted)
    return found


def test_a_library_is_compiled_once_for_the_same_source(
    cache: Path, tmp_path: Path, compilations: list[list[str]]
) -> None:
    path = source(tmp_path, 42)
    assert [answer(load(path)) for _ in range(2)] == [42, 42]
    assert len(compilations) == 1
    (kept,) = cache.iterdir()
    source(tmp_path, 43)
    assert answer(load(path)) == 43
    assert len(compilations) == len(list(cache.iterdir())) == 2
    assert kept.stat().st_mode & 0o022 == 0


def test_what_is_included_counts_too(cache: Path, tmp_path: Path, compilations: list[list[str]]) -> None:
    (tmp_path / "inner").mkdir()
    header = tmp_path / "inner" / "number.h"
    path = tmp_path / "answer.c"
    path.write_text('#include "number.h"\nint answer(void) { return NUMBER; }\n')
    for number in (7, 8):
        header.write_text(f"#define NUMBER {number}\n")
        assert answer(load(path, header)) == number
    assert len(compilations) == 2


def test_a_library_that_was_changed_cut_or_is_another_is_compiled_again(
    cache: Path, tmp_path: Path, compilations: list[list[str]]
) -> None:
    (tmp_path / "other").mkdir()
    other, path = source(tmp_path / "other", 66), source(tmp_path, 42)
    load(other)
    (foreign,) = [file.read_bytes() for file in cache.iterdir()]
    load(path)
    (kept,) = [file for file in cache.iterdir() if file.read_bytes() != foreign]
    right = kept.read_bytes()
    for wrong in (right[:-1], right[:500], b"", foreign, right[:900] + bytes([right[900] ^ 1]) + right[901:]):
        before = len(compilations)
        kept.unlink()  # a library that is loaded must not be changed where it lies
        kept.write_bytes(wrong)
        assert answer(load(path)) == 42
        assert len(compilations) == before + 1
        assert kept.read_bytes()[:-32] != wrong[:-32]
        assert answer(load(path)) == 42
        assert len(compilations) == before + 1


def test_it_is_compiled_every_time_where_nothing_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilations: list[list[str]]
) -> None:
    monkeypatch.setenv("LEAN_MNIST_CACHE", "")
    assert [answer(load(source(tmp_path, 42))) for _ in range(2)] == [42, 42]
    assert len(compilations) == 2


def test_without_a_folder_for_temporary_files_there_is_one_line(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(CannotCompile, match=r"cannot be made and loaded: .*No such file or directory"):
        load(source(tmp_path, 42))


def test_two_processes_at_once(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\nfrom lean_mnist.nn.engine.library import load_library\n"
        f"print(load_library(Path({str(source(tmp_path, 42))!r})).answer())"
    )
    environment = {**surroundings(), "LEAN_MNIST_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in processes] == ["42\n"] * 2
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_source_that_does_not_compile_is_one_line(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.c"
    path.write_text("int answer(void) { return nothing; }\n")
    with pytest.raises(CannotCompile, match=r"exit status 1: .*error: .*nothing.* undeclared") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert not list(cache.iterdir())


def test_which_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "gcc -pipe")
    assert find_compiler() == ["gcc", "-pipe"]
    monkeypatch.setenv("CC", "nobody-cc")
    with pytest.raises(CannotCompile, match="the C compiler that CC names, nobody-cc, is not there"):
        find_compiler()
    monkeypatch.setenv("CC", 'gcc "')
    with pytest.raises(CannotCompile, match="CC names no command: No closing quotation"):
        find_compiler()
    monkeypatch.setenv("CC", "")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CannotCompile, match="there is no C compiler: install gcc or clang, or `pip install ziglang`"):
        find_compiler()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert find_compiler() == [sys.executable, "-m", "ziglang", "cc"]


DIGITS = ["--dataset", "digits", "--epochs", "1", "--run-name", "a-run", "--quiet"]


@pytest.mark.parametrize("name", ["no compiler", "CC names nothing"])
def test_a_run_goes_on_without_a_compiler_unless_it_is_asked_for_one(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    library.load_library.cache_clear()
    monkeypatch.setenv("CC", "nobody-cc" if name == "CC names nothing" else "")
    monkeypatch.setenv("PATH", "")
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ziglang" else find(name))
    reason = "the C compiler that CC names, nobody-cc, is not there" if "CC" in name else "there is no C compiler"
    status, out, err = call(train.main, [*DIGITS, "--engine", "native"], monkeypatch, capsys)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: --engine native: {reason}")
    assert err.count("\n") == 1
    status, out, err = call(train.main, DIGITS, monkeypatch, capsys)
    assert status == 0
    folder = tmp_path / "runs" / "a-run"
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["engine"] == "eager"
    (notice,) = named(records_in(folder), "run/engine")
    assert notice.startswith(f"steps are taken as they are written: {reason}")
    assert err.count(reason) == 1
