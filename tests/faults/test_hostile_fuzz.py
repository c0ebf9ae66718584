"""The fuzzer: what it takes for wrong, that its inputs can be repeated, and a few of them for every reader."""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from benchmarks import fuzz
from benchmarks.fuzzing import probe
from benchmarks.fuzzing.mutations import of_bytes
from benchmarks.fuzzing.probe import Fault, Probe, Target
from benchmarks.fuzzing.targets import TARGETS
from lean_mnist.errors import DataError
from tests.support.training_cases import Result, call

HONEST = b"honest"


def target(read: Callable[[Path], object], name: str = "planted") -> Target:
    """A reader that is right about honest files."""
    return Target(
        name, "file", lambda folder: [HONEST], lambda path: path.read_bytes() == HONEST or read(path), (of_bytes,)
    )


def _refuses(message: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        raise DataError(message)

    return read


def _raises(path: Path) -> None:
    raise KeyError("x")


def _ends(path: Path) -> None:
    sys.exit(2)


def _allocates(path: Path) -> None:
    bytearray(b"x") * (100 << 20)


def _takes_time(path: Path) -> None:
    sum(range(20_000_000))


def _warns(path: Path) -> None:
    warnings.warn("beware", stacklevel=1)


PLANTED = {
    Fault.ERROR: (_raises, _ends, lambda path: [][1], lambda path: "x".encode("latin-7")),
    Fault.MESSAGE: (
        _refuses("two\nlines"),
        _refuses("\x1b[2J"),
        _refuses(""),
        _refuses("x" * 10_000),
        _refuses("\u202e"),
    ),
    Fault.OUTPUT: (lambda path: print("\x1b[31m"), lambda path: print("x" * 200_000), _warns),
    Fault.MEMORY: (_allocates,),
    Fault.TIME: (_takes_time,),
}


@pytest.mark.parametrize(("fault", "read"), [(fault, read) for fault, readers in PLANTED.items() for read in readers])
def test_a_planted_bad_reader_is_caught(fault: Fault, read: Callable[[Path], object], tmp_path: Path) -> None:
    found = Probe(target(read), tmp_path, 0, most_seconds=0.05 if fault is Fault.TIME else 60.0).attempt(b"altered")
    assert found.fault is fault


def test_a_reader_that_never_ends_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> None:
        while True:
            pass

    monkeypatch.setattr(probe, "CUT_AFTER", 0.1)
    assert Probe(target(read), tmp_path, 0).attempt(b"altered").fault is Fault.TIME


def test_a_refusal_in_one_line_and_a_success_are_in_order(tmp_path: Path) -> None:
    found = Probe(target(_refuses("file: damaged")), tmp_path, 0)
    assert (found.attempt(b"altered").fault, found.attempt(b"altered").accepted) == (None, False)
    assert (found.attempt(HONEST).fault, found.attempt(HONEST).accepted) == (None, True)


def test_a_target_whose_honest_files_are_refused_is_none(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="honest"):
        Probe(Target("x", "file", lambda folder: [b"no"], _raises, (of_bytes,)), tmp_path, 0)


def test_findings_are_kept_small_and_counted(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        if b"h" not in path.read_bytes():
            raise KeyError

    planted = Probe(target(read), tmp_path, 0)
    (tmp_path / "found").mkdir()
    tally = fuzz.try_chunk(planted, 0, 60, tmp_path / "found")
    kept = [path for path in (tmp_path / "found").iterdir() if path.suffix != ".json"]
    assert tally["inputs"] == 60
    assert sum(tally["findings"].values()) > 0
    assert len(kept) == len(tally["findings"]) == 1
    assert len(kept[0].read_bytes()) < len(HONEST)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_altered_files_are_refused_in_one_line(target: Target, tmp_path: Path) -> None:
    """A few of each, and the same ones again from the same seed."""
    own = Probe(target, tmp_path, 7)
    for index in range(25):
        content = own.content(index)
        found = own.attempt(content)
        assert (found.fault in (None, Fault.TIME), found.words) == (True, found.words), (index, found)
        assert index > 2 or content == own.content(index)


def test_every_mutation_alters(tmp_path: Path) -> None:
    for each in TARGETS[2:6]:
        seeds = each.prepare(tmp_path)
        for mutation in each.mutations:
            made = [mutation(Random(number), seeds) for number in range(20)]
            assert len(set(made)) > 10


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """The command in this process."""
    return lambda *arguments: call(fuzz.main, list(arguments), monkeypatch, capsys)


def test_the_command_counts_and_goes_on_where_it_was(command: Callable[..., Result], tmp_path: Path) -> None:
    arguments = ("--inputs", "300", "--target", "IDX labels", "--workers", "1", "--findings", str(tmp_path), "--json")
    first = command(*arguments)
    tally = json.loads(first.out)["IDX labels"]
    assert (first.status, tally["inputs"]) == (int(bool(tally["findings"])), 300)
    assert all(": time: " in kind for kind in tally["findings"]), tally["findings"]  # on a machine that is busy
    assert 0 < tally["accepted"] < 300
    assert json.loads(command(*arguments).out)["IDX labels"] == tally  # nothing is tried again
    one = json.loads(command("--only", "4", "--target", "IDX labels", "--findings", str(tmp_path)).out)
    assert (one["fault"], Path(one["input"]).exists()) == (None, True)


def test_wrong_options_are_refused(command: Callable[..., Result]) -> None:
    assert "did you mean 'IDX labels'?" in command("--target", "IDX label").err
    assert "--target" in command("--only", "1").err
