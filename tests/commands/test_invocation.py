"""Commands in messages: what is printed can be typed, from the environment that it is printed in."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lean_mnist.invocation import typed


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment ``.venv`` in the present folder, not activated: its programs are shell scripts."""
    monkeypatch.chdir(tmp_path)
    scripts = tmp_path / ".venv" / "bin"
    scripts.mkdir(parents=True)
    for name in ("python", "tensorboard", "lean-mnist"):
        (scripts / name).write_text(f'#!/bin/sh\nprintf "%s|" {name} "$@"\n', encoding="utf-8")
        (scripts / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(scripts / "python"))
    monkeypatch.setattr(sys, "argv", ["pytest"])
    return scripts


TRAIN = "python -m lean_mnist.train"


def test_an_environment_that_is_not_activated_is_named(environment: Path) -> None:
    assert typed(TRAIN, "--resume", Path("a run")) == ".venv/bin/python -m lean_mnist.train --resume 'a run'"
    assert typed("tensorboard", "--logdir", "runs") == ".venv/bin/tensorboard --logdir runs"


def test_one_that_is_activated_is_not(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(environment), prepend=":")
    assert typed(TRAIN) == TRAIN
    assert typed("tensorboard", "--logdir", "runs") == "tensorboard --logdir runs"
    (environment / "python").rename(environment / "python3")
    monkeypatch.setattr(sys, "executable", str(environment / "python3"))
    assert typed(TRAIN) == "python3 -m lean_mnist.train"


def test_an_environment_elsewhere_has_its_whole_path(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (environment.parents[1] / "work").mkdir()
    monkeypatch.chdir("work")
    assert typed(TRAIN) == f"{environment}/python -m lean_mnist.train"
    monkeypatch.chdir(environment)  # where "python" alone would be another one
    assert typed(TRAIN) == f"{environment}/python -m lean_mnist.train"


def test_without_its_script_a_program_is_run_as_a_module(environment: Path) -> None:
    (environment / "tensorboard").unlink()
    assert typed("tensorboard", "--logdir", "runs") == ".venv/bin/python -m tensorboard.main --logdir runs"


def test_who_started_by_the_script_goes_on_by_the_script(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(environment / "lean-mnist"), "train"])
    assert typed(TRAIN, "--resume") == ".venv/bin/lean-mnist train --resume"
    monkeypatch.setenv("PATH", str(environment), prepend=":")
    assert typed(TRAIN, "--resume") == "lean-mnist train --resume"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("name", ["run", "a run", "it's", "x;rm y", "$HOME", "a\n\x1b[2J", "a\\b\n", "é", "\u202ex"])
def test_a_shell_reads_every_name_as_it_is(name: str, environment: Path) -> None:
    line = typed(TRAIN, "--resume", name)
    assert line.isprintable()
    done = subprocess.run([shutil.which("bash") or "", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode() == f"python|-m|lean_mnist.train|--resume|{name}|"
    if name.isprintable():
        assert shlex.split(line)[-1] == name
