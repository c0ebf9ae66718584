"""The number of threads: the fastest, measured again now and then; one that collapses is left."""

import os
from collections import Counter
from collections.abc import Callable

import pytest

from lean_mnist.nn.engine.structures import MOST_THREADS
from lean_mnist.nn.engine.threads import ThreadChoice


def chosen(choice: ThreadChoice, seconds: Callable[[int], float], calls: int) -> Counter[int]:
    """How often each number was used in so many calls, each of which takes ``seconds(threads)``."""
    found: Counter[int] = Counter()
    for _ in range(calls):
        threads = choice.next()
        found[threads] += 1
        choice.took(threads, seconds(threads))
    return found


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(5), raising=False)


@pytest.mark.parametrize("fastest", [1, 2, 4])
def test_the_fastest_is_used_and_the_others_are_measured_again(fastest: int, four_cores: None) -> None:
    choice = ThreadChoice(None)
    assert choice.most == 5
    found = chosen(choice, lambda threads: 1.0 if threads == fastest else 1.5, 400)
    assert choice.best == fastest
    assert set(found) == {1, 2, 4}
    assert found[fastest] > 360
    assert min(found.values()) > 2 + 2


def test_threads_that_collapse_are_left_after_two_calls_and_taken_again_when_they_are_fast(four_cores: None) -> None:
    choice = ThreadChoice(None)
    chosen(choice, lambda threads: 1 / threads, 50)
    assert choice.best == 4
    collapsed = chosen(choice, lambda threads: 1.0 if threads == 1 else 25.0, 200)
    assert choice.best == 1
    assert collapsed[4] + collapsed[2] < 10
    chosen(choice, lambda threads: 1 / threads, 3000)
    assert choice.best == 4


def test_one_busy_moment_changes_nothing(four_cores: None) -> None:
    choice = ThreadChoice(None)
    chosen(choice, lambda threads: 1 / threads, 50)
    choice.took(4, 100.0)
    assert choice.best == 4


@pytest.mark.parametrize("asked", [1, 3])
def test_a_number_that_is_asked_for_is_used(asked: int, four_cores: None) -> None:
    choice = ThreadChoice(asked)
    assert choice.best == choice.most == asked
    assert chosen(choice, lambda threads: 1.0, 50) == {asked: 50}


def test_there_are_never_more_than_the_kernels_have_room_for() -> None:
    assert ThreadChoice(1024).most == MOST_THREADS
