"""The soak's rounds, and its verdict over what a process held."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults.soak import LEAST_ROUNDS, Sample, Soak, Verdict, judge

MB = 2**20


def held(number: int, **changes: Any) -> Sample:
    """A sample after round ``number`` of 10 seconds each."""
    sample = Sample(number, 10.0 * number, 800 * MB, 8, 1, 0, 0, 400_000, 0.1, "resumed")
    return dataclasses.replace(sample, **changes)


def verdict(grow: Callable[[int], dict[str, int]], rounds: int = 4 * LEAST_ROUNDS) -> Verdict:
    return judge([held(number, **grow(number)) for number in range(rounds)], failures=0)


def test_a_process_that_holds_what_it_held_is_flat() -> None:
    assert verdict(lambda number: {}).good
    assert verdict(lambda number: {"resident": (800 + 5 * (number % 3)) * MB}).good
    assert verdict(lambda number: {"resident": (900 if number > 20 else 700) * MB}).good  # while it warmed up


@pytest.mark.parametrize(
    ("name", "grow"),
    [
        ("resident", lambda number: {"resident": 800 * MB + number * 200_000}),
        ("handles", lambda number: {"handles": 8 + number // 40}),
        ("threads", lambda number: {"threads": 1 + number // 40}),
        ("children", lambda number: {"children": number // 40}),
        ("temporary", lambda number: {"temporary": number // 40}),
        ("objects", lambda number: {"objects": 400_000 + 100 * number}),
    ],
)
def test_what_grows_is_named(name: str, grow: Callable[[int], dict[str, int]]) -> None:
    found = verdict(grow)
    assert not found.flat
    assert [change.name for change in found.changes if not change.flat] == [name]
    assert "GROWS" in str(found)


def test_too_few_rounds_show_nothing_and_a_failed_round_is_not_good() -> None:
    assert not verdict(lambda number: {}, rounds=LEAST_ROUNDS - 1).flat
    assert not judge([], failures=0).flat
    failed = judge([held(number) for number in range(4 * LEAST_ROUNDS)], failures=1)
    assert failed.flat
    assert not failed.good


def test_a_round_of_the_soak_refuses_a_run_that_ends_with_other_weights(tmp_path: Path) -> None:
    soak = Soak(tmp_path)
    soak._expected[0] = "other weights"
    with pytest.raises(RuntimeError, match="expected the weights of every other run"):
        soak.round(0)
