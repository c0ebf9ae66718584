"""The commands as a family: one table, which the modules, the README and the listing agree with."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lean_mnist
from lean_mnist import __main__ as family
from lean_mnist.version import __version__
from tests.support.training_cases import call, surroundings

PACKAGE = Path(lean_mnist.__file__).parent
MODULES = {command.name: command.module or command.name for command in family.COMMANDS}


def test_every_module_that_is_run_as_a_command_is_in_the_table() -> None:
    run_as_commands = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if "\n    run_command(main)\n" in path.read_text(encoding="utf-8")
    }
    assert run_as_commands - {"__main__"} == set(MODULES.values())
    assert len(MODULES) == len(family.COMMANDS)


@pytest.mark.parametrize("module", MODULES.values())
def test_a_command_is_called_by_its_own_name(module: str) -> None:
    source = (PACKAGE / Path(*module.split("."))).with_suffix(".py").read_text(encoding="utf-8")
    assert callable(importlib.import_module(f"lean_mnist.{module}").main)
    assert source.startswith(f'"""``python -m lean_mnist.{module}')


def test_readme_says_what_each_command_is_for() -> None:
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    section = readme.partition("\n## Commands\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([a-z]+)`", row)} == set(MODULES)


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_commands_are_listed_in_a_screenful(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = call(family.main, arguments, monkeypatch, capsys)
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in lines[2:-3]] == list(MODULES)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_a_command_runs_with_the_arguments_behind_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["programs", "--inputs", "2", "--examples", "3", "--fresh", "2", "--bound-examples", "8"]
    status, out, err = call(family.main, arguments, monkeypatch, capsys)
    assert (status, err) == (0, "")
    assert out.startswith("Pr[")


@pytest.mark.parametrize(
    ("name", "near"),
    [("trian", " (did you mean 'train'?)"), ("--versoin", " (did you mean '--version'?)"), ("\x1b[2J", "")],
)
def test_a_mistyped_command_is_one_line(
    name: str, near: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = call(family.main, [name], monkeypatch, capsys)
    assert (status, out) == (2, "")
    assert err == f"error: {name!r}: no such command{near}; --help lists them\n"


def test_the_version_is_said_at_once() -> None:
    code = "import sys, runpy; sys.argv = ['x', '--version']; runpy.run_module('lean_mnist', run_name='__main__')"
    told = [sys.executable, "-c", f"{code}; print({{'torch', 'numpy'}} & set(sys.modules))"]
    done = subprocess.run(told, env=surroundings(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"lean_mnist {__version__}\nset()\n", "")
