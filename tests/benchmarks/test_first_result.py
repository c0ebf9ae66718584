"""Whole processes by turns: what is timed, what is counted, and what is printed of them."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.first_result import CONTENDERS, GOALS, OURS, ROOT, Contender, Goal, Run, main, measure, run, table
from lean_mnist.errors import ConfigError, LeanMnistError
from tests.support.idx_files import write_idx

TINY = Goal(0.98, 1, 320)


def saying(accuracy: str) -> Contender:
    return Contender(command=("-c", f"import sys; print('step'); print('test accuracy {accuracy}%')"))


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of MNIST with 400 images each."""
    folder, draw = tmp_path / "data" / "MNIST" / "raw", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", draw.integers(0, 256, (400, 28, 28), np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", (np.arange(400) % 10).astype(np.uint8))
    monkeypatch.setenv("LEAN_MNIST_DATA", str(tmp_path / "data"))


@pytest.mark.parametrize("name", [OURS, *(name for name, one in CONTENDERS.items() if one.program)])
def test_contenders_train_and_say_their_accuracy(name: str, mnist: None, tmp_path: Path) -> None:
    contender = CONTENDERS[name]
    if contender.package and importlib.util.find_spec(contender.package) is None:
        pytest.skip(f"{contender.package} is not installed")
    found = run(contender.arguments(TINY, 1), {"LEAN_MNIST_CACHE": ""}, tmp_path)
    assert found.shown is not None
    assert found.accuracy is not None
    assert 0 < found.shown <= found.ended
    assert 0 <= found.accuracy <= 0.5  # of noise
    assert found.peak_mb > 100


def test_every_program_is_a_contender() -> None:
    found = {path.name for path in (ROOT / "benchmarks" / "whole").glob("*.py")}
    assert found == {one.program for one in CONTENDERS.values() if one.program}


def test_the_first_turn_is_not_counted(tmp_path: Path) -> None:
    note = f"import sys; open({str(tmp_path / 'log')!r}, 'a').write(sys.argv[1] + ' ')"
    contenders = {name: Contender(command=("-c", note, name + "{seed}")) for name in "ab"}
    runs = measure(TINY, contenders, 2)
    assert (tmp_path / "log").read_text().split() == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert [len(own) for own in runs.values()] == [2, 2]


def test_a_cache_is_kept_or_new(tmp_path: Path) -> None:
    code = "import os, pathlib, sys; p = pathlib.Path(os.environ['CACHE'], 'x'); n = 1 + p.exists(); p.touch(); "
    for place, said in (("{kept}", ["2.0"]), ("{new}", ["1.0"])):
        contender = Contender(command=("-c", code + "print(f'test accuracy {{n:.1f}}%')"), environment={"CACHE": place})
        (found,) = measure(TINY, {"a": contender}, 1)["a"]
        assert [f"{100 * (found.accuracy or 0):.1f}"] == said


def test_a_process_that_fails_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise ValueError('no such thing')"]
    with pytest.raises(LeanMnistError, match="ended with 1: ValueError: no such thing"):
        run(command, {}, tmp_path)


def test_the_table_says_what_falls_short() -> None:
    ours, other = Run(2.0, 3.0, 0.981, 500), Run(4.0, 4.5, 0.981, 700)
    runs = {
        "import torch": [Run(None, 1.0, None, 400)],
        OURS: [ours],
        "other": [other, other, Run(9.0, 9.5, 0.97, 700)],
    }
    head, torch, first, second = table(Goal(0.98, 3, 10), runs)
    assert "× ours" in head
    assert torch.split()[-3:] == ["1.00", "0.50", "400"]
    assert first.split()[1:] == ["2.00", "3.00", "1.00", "98.10%", "(98.10%)", "500"]
    assert second.split()[1:] == ["4.00", "4.50", "2.00", "97.73%", "(97.00%)", "700", "below", "98%"]


def test_goals_are_what_ours_is_told() -> None:
    goal = dataclasses.replace(GOALS["93"], epochs=7)
    arguments = CONTENDERS[OURS].arguments(goal, 5)
    assert arguments[arguments.index("--epochs") + 1] == "7"
    assert arguments[arguments.index("--seed") + 1] == "5"


def test_data_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEAN_MNIST_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["first_result"])
    with pytest.raises(ConfigError, match="expected a folder with MNIST/raw"):
        main()
