"""When ``GradientMonitor`` checks a forward, and which of its calls; and what the benchmark of its cost measures."""

import json
import re
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import monitor as benchmark
from lean_mnist.crosscheck.monitor import GradientMonitor, schedule
from lean_mnist.crosscheck.monitor.schedule import Budget, Turns
from tests.support.monitored_models import WIDTH, Applied, monitored, network, sine


class Clock:
    """Time that only passes when it is told to."""

    def __init__(self) -> None:
        self.now = self.spent = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(schedule, "time", found)
    return found


@pytest.mark.parametrize(("first", "later"), [(13.0, 2.0), (0.1, 0.1), (5.0, 20.0)])
def test_a_budget_is_kept(clock: Clock, first: float, later: float) -> None:
    budget = Budget(0.02, lambda: clock.spent)
    checked: list[int] = []
    for number in range(20_000):
        clock.now += 1.0
        if budget(number):
            clock.spent += later if checked else first
            clock.now += later if checked else first
            checked.append(number)
        # A check of unknown length may overdraw once; it is then waited for.
        assert clock.spent <= 0.02 * clock.now + max(first, later)
    assert checked[0] == 0
    assert 0.016 * clock.now <= clock.spent <= 0.02 * clock.now


def test_processes_whose_clocks_differ_check_the_same_forwards(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    budget = Budget(0.02, lambda: clock.spent)
    assert [number for number in range(250) if budget(number)] == [0, 100, 200]


def test_turns() -> None:
    turns, calls = Turns(), ["a", "b", "c", "d"]
    kinds = {"a": 1, "b": 1, "c": 2, "d": 1}

    def forward(present: Any) -> list[str]:
        turns.begin()
        return [call for call in present if turns.takes(call, kinds[call])]

    assert forward(calls) == ["a", "c"]  # one of each kind
    assert [forward(calls) for _ in range(6)] == [["b"], ["d"], ["a"], ["c"], ["b"], ["d"]]
    assert forward(["b"]) == []  # it was a's turn, which was not called
    kinds["e"] = 3
    assert forward([*calls, "e"]) == ["c", "e"]  # a new kind does not wait


def test_the_default_checks_the_first_forward_and_few_others() -> None:
    model = network(Applied(sine()), nn.Linear(WIDTH, 1))
    with GradientMonitor(model) as monitor:
        for _ in range(50):
            model(torch.randn(3, WIDTH)).sum().backward()
    assert monitor.history[0].step == 0
    assert len(monitor.history) < 25
    summary = monitor.summary()
    assert summary.forwards == 50
    assert summary.passed == len(monitor.history)
    assert 0 < summary.share < 1


def test_a_forward_that_is_not_checked_costs_one_count() -> None:
    model = network(Applied(sine()))
    monitor = monitored(model, steps=1, every=1000)
    seconds = monitor.summary().seconds
    for _ in range(5):
        model(torch.randn(3, WIDTH)).sum().backward()
    assert monitor.summary().seconds == seconds
    assert monitor.forwards == 6


def test_what_detach_returns_does_not_change() -> None:
    monitor = monitored(network(Applied(sine())))
    summary = monitor.detach()
    assert summary == monitor.summary()
    assert "1 checked in 1 forwards: 1 passed" in str(summary)
    assert json.loads(json.dumps(summary.not_applicable)) == {}


def test_the_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.costs(width=24, tokens=16, steps=1)
    benchmark.detection(width=24, tokens=64, trials=4)
    printed = capsys.readouterr().out
    assert "checked (a call in turn): " in printed
    assert "5 checked in 2 forwards: 5 passed" in printed
    seen = [int(n) for n in re.findall(r"^seen, .*: (\d+) of 4$", printed, re.MULTILINE)]
    assert len(seen) == 2
    assert min(seen) >= 3
