"""What every command does about what nobody foresaw: one line on standard error, printable, and the right status."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist.command_line import run_command
from lean_mnist.errors import ConfigError, DataError
from tests.support.training_cases import REPOSITORY


def _raise(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


def _recurse() -> None:
    _recurse()


def _ask_for_too_much() -> None:
    torch.empty(1 << 46, dtype=torch.uint8)


LAST: dict[str, tuple[Callable[[], Any], int, str]] = {
    "foreign text": (_raise(ConfigError("a\n\x1b[2J\u202eb\udcff")), 2, "error: a\\n\\x1b[2J\\u202eb\\udcff\n"),
    "a long line": (_raise(DataError("x" * 100_000)), 2, f"error: {'x' * 3999}…\n"),
    "Python's memory": (_raise(MemoryError()), 2, "error: out of memory\n"),
    "PyTorch's memory": (_ask_for_too_much, 2, "error: out of memory\n"),
    "depth": (_recurse, 2, "error: what was given is nested too deeply\n"),
    "Ctrl-C": (_raise(KeyboardInterrupt()), 130, "interrupted\n"),
    "a full disk": (
        _raise(OSError(28, "No space left on device", "a\nb")),
        2,
        "error: a\\nb: No space left on device\n",
    ),
}


@pytest.mark.parametrize("kind", LAST)
def test_whatever_is_raised_is_one_line(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    main, status, line = LAST[kind]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as stop:
        run_command(main)
    assert (stop.value.code, capsys.readouterr()) == (status, ("", line))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_fault_of_ours_still_shows_its_trace() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: print(1 // 0))
    with pytest.raises(RuntimeError, match="something else"):
        run_command(_raise(RuntimeError("something else")))


def test_a_terminal_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    with pytest.raises(SystemExit) as stop:
        run_command(_raise(ConfigError("a")))
    assert stop.value.code == 2


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is a signal on POSIX only")
@pytest.mark.parametrize("command", ["certify", "evaluate", "train", "check", "crosscheck.replay", "verify"])
def test_ctrl_c_while_a_command_is_imported(command: str, tmp_path: Path) -> None:
    """The package's first module says when Python has got to it; 0.2 s later PyTorch is being imported."""
    arguments = {"train": ["--dataset", "digits"], "verify": []}.get(command, ["nothing.pt"])
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Tell:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'lean_mnist.version':\n"
        "            print('begun', flush=True)\n"
        "sys.meta_path.insert(0, Tell())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])}
    for delay in (0.0, 0.2):
        process = subprocess.Popen(
            [sys.executable, "-m", f"lean_mnist.{command}", *arguments],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        assert (process.communicate()[1], process.returncode) == ("interrupted\n", 130)
