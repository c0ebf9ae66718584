"""Epochs by turns: each contender trains, says its seconds, and is tested on what it has learned."""

from __future__ import annotations

import json
import os
import sys

import pytest
import torch

from benchmarks import speed
from benchmarks.speed import Arguments, limit_threads, take_turns, task_of
from benchmarks.speed_contenders import CONTENDERS, Contender
from lean_mnist.errors import ConfigError

HERE = [name for name, (package, _) in CONTENDERS.items() if package is None]


@pytest.mark.parametrize("name", HERE)
def test_contenders_learn(name: str) -> None:
    torch.manual_seed(0)
    task = task_of(Arguments(dataset="digits", examples=640, batch_size=16))
    assert task.steps == 40
    contender = CONTENDERS[name][1](task)
    assert min(contender.epoch(), contender.epoch()) > 0
    accuracy = contender.accuracy(task)
    if name == "the matrix products alone":
        assert accuracy is None
    else:
        assert accuracy is not None
        assert 0.5 < accuracy <= 1


def test_turns_are_interleaved_and_the_first_is_not_counted() -> None:
    order: list[str] = []

    def contender(name: str) -> Contender:
        def epoch() -> float:
            order.append(name)
            return float(len(order))

        return Contender(epoch)

    assert take_turns({name: contender(name) for name in "ab"}, 2) == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert order == list("ababab")


def test_threads_are_cores_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    cores: list[int] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, chosen: cores.extend(chosen), raising=False)
    limit_threads(1)
    assert cores == [3]
    with pytest.raises(ConfigError, match="--threads: 3, expected at most 2"):
        limit_threads(3)


@pytest.mark.parametrize("json_too", [False, True])
def test_the_table(json_too: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--dataset", "digits", "--examples", "128", "--repeats", "1", "--only", "products,in memory"]
    monkeypatch.setattr(sys, "argv", ["speed", *options, *["--json"] * json_too])
    speed.main()
    printed = capsys.readouterr().out
    if json_too:
        found = json.loads(printed)
        assert found["accuracies"]["the matrix products alone"] is None
        assert [len(taken) for taken in found["seconds"].values()] == [1, 1]
    else:
        _, products, memory = printed.splitlines()
        assert "µs a step" in products
        assert memory.endswith("after 2 epochs")
