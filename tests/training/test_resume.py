"""A run that was interrupted or killed and goes on is, bit for bit, the run that was not."""

import functools
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from lean_mnist.errors import CheckpointError, ConfigError
from lean_mnist.training.arguments import read_arguments
from lean_mnist.training.checkpoints import write_checkpoint
from lean_mnist.training.objectives.classification import Classification
from lean_mnist.training.objectives.summary import Summary
from lean_mnist.training.run import run
from lean_mnist.training.sinks.dashboard import tag_of
from lean_mnist.training.stopping import StopRequest
from tests.support.training_cases import (
    MEASURED,
    MEASURED_FIELDS,
    NAME,
    STEPS_PER_EPOCH,
    FinishedRun,
    digits_config,
    digits_run,
    identical,
    interrupted_at,
    load,
    named,
    records_in,
    surroundings,
    tree,
    without,
)

EPOCHS = 3
COMMON: dict[str, Any] = {"epochs": EPOCHS, "log_every": 4, "check_every": 7, "gradcheck_every": 9}
KINDS: dict[str, dict[str, Any]] = {
    "sgd, one-cycle": {},
    "sgd, constant": {"schedule": "constant", "lr": 0.01, "momentum": 0.0, "clip_norm": 1.0, "track_test": True},
    "adam, warm-up, cosine": {"optimizer": "adam", "schedule": "cosine", "warmup_steps": 9, "average": 0.5},
    "accumulate": {"batch_size": 50, "accumulate": 3},
    "rmsprop, step, elastic": {
        "augment": "elastic",
        "optimizer": "rmsprop",
        "schedule": "step",
        "decay_epochs": 1,
        "hidden": (16, 16),
    },
}


@pytest.fixture(autouse=True)
def same_generator() -> None:
    """PyTorch's global generator, which a run saves but does not draw from, begins alike in every run of a test."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], FinishedRun]:
    """``uninterrupted(kind)``: the run of that kind, made once."""
    made: dict[str, FinishedRun] = {}

    def get(kind: str) -> FinishedRun:
        if kind not in made:
            made[kind] = digits_run(tmp_path_factory.mktemp("uninterrupted"), **COMMON, **KINDS[kind])
        return made[kind]

    return get


def resume(*arguments: str) -> Summary:
    """What ``python -m lean_mnist.train --resume …`` does, in the present folder."""
    config, path = read_arguments(["--resume", *arguments])
    assert path is not None
    return run(config, path)


def assert_same(ours: FinishedRun, theirs: FinishedRun) -> None:
    """Two runs agree bit for bit in all but measured times."""
    for a, b in ((ours.best, theirs.best), (ours.last, theirs.last)):
        first, second = (without(load(path), *MEASURED_FIELDS) for path in (a, b))
        for name in first:
            assert identical(first[name], second[name]), f"{a.name}: {name}"
    timed = ("seconds", "examples_per_second", "share_of_time", "best_sha256")
    assert without(ours.summary_json, *timed) == without(theirs.summary_json, *timed)
    mine, others = ([r for r in run.records if r["name"] not in MEASURED] for run in (ours, theirs))
    assert mine == others
    pairs = [(r["step"], r["name"]) for r in ours.records if not r["name"].endswith("/warning")]
    assert len(pairs) == len(set(pairs))
    assert [r["step"] for r in ours.records] == sorted(r["step"] for r in ours.records)


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        # After the first step, in an epoch, at an epoch's last step, at the run's last but one and last.
        ("sgd, one-cycle", [1]), ("sgd, one-cycle", [7]), ("sgd, one-cycle", [STEPS_PER_EPOCH]),
        ("sgd, one-cycle", [32]), ("sgd, one-cycle", [33]), ("sgd, one-cycle", [5, 6, 1, 11]),
        ("sgd, constant", [14]), ("sgd, constant", [STEPS_PER_EPOCH, STEPS_PER_EPOCH]),
        ("adam, warm-up, cosine", [4]), ("adam, warm-up, cosine", [25]),
        ("accumulate", [5]), ("accumulate", [9, 1]), ("rmsprop, step, elastic", [17]),
    ],
)  # fmt: skip
def test_an_interrupted_run_goes_on_bit_for_bit(
    kind: str, steps: list[int], here: Path, uninterrupted: Callable[[str], FinishedRun]
) -> None:
    at = 0
    for session, count in enumerate(steps):
        at += count
        begin = functools.partial(run, digits_config(**COMMON, **KINDS[kind]))
        interrupted_at(count, functools.partial(resume, NAME) if session else begin)
        assert load(Path("checkpoints", NAME, "last.pt"))["metrics"]["step"] == at
        assert not Path("runs", NAME, "summary.json").exists()
    assert_same(FinishedRun(here, resume(NAME)), uninterrupted(kind))


def test_a_run_killed_at_its_first_step_can_be_resumed(
    here: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Callable[[str], FinishedRun]
) -> None:
    """What is on disk when training starts is enough."""
    with monkeypatch.context() as patch:
        patch.setattr("lean_mnist.training.trainer.Trainer.fit", lambda trainer: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(digits_config(**COMMON))
    assert_same(FinishedRun(here, resume()), uninterrupted("sgd, one-cycle"))


# The n-th time that a file of this name gets its content: those of a run of three epochs, each better than the last.
RENAMES = [
    ("last.pt", 1), ("config.json", 1), ("best.next.pt", 1), ("last.pt", 2), ("best.pt", 1), ("best.next.pt", 2),
    ("last.previous.pt", 2), ("last.pt", 3), ("best.previous.pt", 1), ("best.pt", 2), ("last.pt", 4),
    ("best.next.pt", 4), ("last.pt", 5), ("certificate.weights", 1), ("certificate.json", 1), ("summary.json", 1),
    ("model_card.md", 1), ("report.html", 1),
    ("last.previous.pt", 5), ("last.pt", 6),
]  # fmt: skip


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("name", "count"), RENAMES)
def test_a_run_killed_while_it_saves_goes_on_bit_for_bit(
    name: str, count: int, after: bool, here: Path, monkeypatch: pytest.MonkeyPatch,
    uninterrupted: Callable[[str], FinishedRun],
) -> None:  # fmt: skip
    class Killed(BaseException):
        pass

    replace, left = os.replace, [count]

    def dying(source: Any, target: Any) -> None:
        left[0] -= Path(target).name == name
        if left[0] == 0 and not after:
            raise Killed
        replace(source, target)
        if left[0] == 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(Killed):
            run(digits_config(**COMMON))
    begun = Path("checkpoints", NAME, "last.pt").exists()
    finished = FinishedRun(here, resume(NAME) if begun else run(digits_config(**COMMON)))
    assert_same(finished, uninterrupted("sgd, one-cycle"))
    assert events_in(finished.folder) == events_in(uninterrupted("sgd, one-cycle").folder)
    left_over = {path.name for path in here.rglob("*") if path.name.startswith(".")}
    assert left_over | {path.name for path in finished.last.parent.iterdir()} == {
        "best.pt", "best.previous.pt", "last.pt", "last.previous.pt", "model_card.md"
    }  # fmt: skip


def events_in(folder: Path) -> list[tuple[int, str, bytes]]:
    """Step, tag and value of all events of a run, in their order, without what a purge would hide."""
    events = (event for path in sorted(folder.glob("events.*")) for event in LegacyEventFileLoader(str(path)).Load())
    values = ((event.step, value) for event in events for value in event.summary.value)
    timed = [tag_of(name) for name in MEASURED]
    return [(step, value.tag, value.SerializeToString()) for step, value in values if value.tag not in timed]


def test_a_torn_last_line_is_dropped(here: Path, uninterrupted: Callable[[str], FinishedRun]) -> None:
    interrupted_at(13, lambda: run(digits_config(**COMMON)))
    with Path("runs", NAME, "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 14, "name": "train/loss", "value": 1}\n{"step": 15, "name": "train/lo')
    assert_same(FinishedRun(here, resume(NAME)), uninterrupted("sgd, one-cycle"))


# -- a program of its own, stopped from outside -----------------------------------------------------------------------

LONG = ["--dataset", "digits", "--epochs", "12", "--batch-size", "16", "--run-name", NAME, "--log-every", "20"]


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The uninterrupted run of ``LONG``."""
    root = tmp_path_factory.mktemp("long")
    config, _ = read_arguments([*LONG, "--quiet"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return FinishedRun(root, run(config))


def scalar_steps(folder: Path) -> dict[str, list[int]]:
    """The steps of every scalar that TensorBoard would show for a run."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


class Stopped(NamedTuple):
    """A program that was stopped: where it ran, its exit status, what it said."""

    root: Path
    status: int
    said: list[str]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[signal.Signals, Stopped]:
    """Programs that train as ``LONG`` says, stopped by a signal somewhere after their second epoch."""

    def stop(number: signal.Signals) -> Stopped:
        root = roots[number]
        command = [sys.executable, "-m", "lean_mnist.train", *LONG]
        program = subprocess.Popen(command, env=surroundings(), cwd=root, stderr=subprocess.PIPE, text=True)
        assert program.stderr is not None
        said = list(itertools.takewhile(lambda line: " 2/12" not in line, program.stderr))
        program.send_signal(number)
        said += program.stderr
        program.stderr.close()
        return Stopped(root, program.wait(), said)

    numbers = (signal.SIGTERM, signal.SIGKILL)
    roots = {number: tmp_path_factory.mktemp(number.name) for number in numbers}
    with ThreadPoolExecutor() as threads:
        return dict(zip(numbers, threads.map(stop, numbers), strict=True))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_program_stopped_from_outside_goes_on_bit_for_bit(
    number: signal.Signals,
    stopped: dict[signal.Signals, Stopped],
    long_run: FinishedRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, status, said = stopped[number]
    monkeypatch.chdir(root)
    if number == signal.SIGKILL:
        assert status == -signal.SIGKILL
    else:
        assert status == 130
        assert said[-1].startswith("interrupted at step ")
        assert said[-1].endswith(f"-m lean_mnist.train --resume checkpoints/{NAME}\n")
    state = load(Path("checkpoints", NAME, "last.pt"))["training"]["state"]
    assert 1 <= state["epoch"] < 12
    # TensorBoard orders files by the second in their names, and no program starts within the second of another's death.
    first_file = next(Path("runs", NAME).glob("events.*"))
    while int(time.time()) <= int(first_file.name.split(".")[3]):
        time.sleep(0.05)
    resumed = FinishedRun(root, resume(NAME, "--quiet"))
    # One program spoke, the other did not; and PyTorch's global generator, which no run draws from, is the program's.
    quiet = [digest.replace('"quiet": true', '"quiet": false') for digest in _configurations(resumed, long_run)]
    assert quiet[0] == quiet[1]
    for a, b in ((resumed.best, long_run.best), (resumed.last, long_run.last)):
        first, second = (without(load(path), *MEASURED_FIELDS, "quiet", "rng") for path in (a, b))
        assert identical(first, second), a.name
    assert resumed.summary_json["test_errors"] == long_run.summary_json["test_errors"]
    skip = (*MEASURED, "run/configuration", "run/outcome")
    mine, others = ([r for r in run.records if r["name"] not in skip] for run in (resumed, long_run))
    assert mine == others
    steps = scalar_steps(resumed.folder)
    assert all(low < high for found in steps.values() for low, high in itertools.pairwise(found))
    assert steps == scalar_steps(long_run.folder)


def _configurations(*runs: FinishedRun) -> list[str]:
    return [(run.folder / "config.json").read_text(encoding="utf-8") for run in runs]


# -- a finished run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("track_test", [False, True])
def test_a_finished_run_is_only_summed_up_again(track_test: bool, here: Path) -> None:
    first = FinishedRun(here, run(digits_config(track_test=track_test)))
    before = first.summary_json
    content = {path: load(path) for path in (first.best, first.last)}
    again = FinishedRun(here, resume(NAME))
    assert again.summary_json == before
    assert str(again.summary) == str(first.summary)
    looks = again.summary_json["test_looks"]
    assert len(looks) == (3 if track_test else 1)
    assert [look["purpose"] for look in looks].count("final") == 1
    for path, old in content.items():
        assert identical(load(path), old), path.name


def test_a_finished_run_summed_up_again_doubles_nothing(here: Path) -> None:
    first = FinishedRun(here, run(digits_config()))
    records, steps = first.records, scalar_steps(first.folder)
    again = FinishedRun(here, resume(NAME))
    assert again.records == records
    assert scalar_steps(first.folder) == steps


# -- what cannot be resumed -------------------------------------------------------------------------------------------


def test_other_data_are_refused(here: Path, tiny_mnist: Callable[..., Path]) -> None:
    for seed in (0, 1):
        tiny_mnist(here / f"data-{seed}", seed=seed)
    interrupted_at(3, lambda: run(digits_config(dataset="mnist", data_dir="data-0", batch_size=10)))
    before = tree(here)
    with pytest.raises(ConfigError, match=r"last\.pt: the mnist found now is not the one this run was started on"):
        resume(NAME, "--data-dir", "data-1")
    assert tree(here) == before
    Path("data-0").rename("moved")
    assert resume(NAME, "--data-dir", "moved").state.epoch == 2


def damage(path: Path) -> None:
    """Flip a bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "fault", [damage, Path.unlink, lambda path: path.write_bytes(b"")], ids=["bit", "gone", "empty"]
)
def test_a_damaged_last_checkpoint_is_done_without(
    fault: Callable[[Path], None], here: Path, uninterrupted: Callable[[str], FinishedRun],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    interrupted_at(25, lambda: run(digits_config(**COMMON)))
    last = Path("checkpoints", NAME, "last.pt")
    fault(last)
    finished = FinishedRun(here, resume(NAME))
    what = "is gone" if fault is Path.unlink else "is damaged"
    line = f"{last} {what}; going on from {last.with_name('last.previous.pt')}, step 22\n"
    assert capsys.readouterr().err == f"warning: step 22: {line}"
    assert_same(finished, uninterrupted("sgd, one-cycle"))
    assert events_in(finished.folder) == events_in(uninterrupted("sgd, one-cycle").folder)


def test_two_damaged_generations_are_refused_and_nothing_is_touched(here: Path) -> None:
    finished = FinishedRun(here, run(digits_config(epochs=1)))
    for path in (finished.last, finished.last.with_name("last.previous.pt")):
        damage(path)
    before = tree(here)
    with pytest.raises(CheckpointError, match=r"last\.pt: "):
        resume(NAME)
    assert tree(here) == before


@pytest.mark.parametrize("finished", [False, True])
def test_another_runs_best_checkpoint_is_refused(finished: bool, here: Path) -> None:
    other = FinishedRun(here, run(digits_config(epochs=1, seed=1))).best.read_bytes()
    Path("runs").rename("other-runs")
    Path("checkpoints").rename("other-checkpoints")
    if finished:
        run(digits_config(epochs=1))
    else:
        interrupted_at(13, lambda: run(digits_config()))
    best = Path("checkpoints", NAME, "best.pt")
    for content, found in ((other, r"found one with \w{12}…$"), (b"", "found one with …$")):
        best.write_bytes(content)
        best.with_name("best.previous.pt").unlink(missing_ok=True)
        before = tree(here)
        with pytest.raises(
            CheckpointError, match=r"best\.pt: expected the checkpoint that last\.pt goes with, .*" + found
        ):
            resume(NAME)
        assert tree(here) == before


def test_a_best_checkpoint_that_is_exchanged_while_the_run_goes_on_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FinishedRun(here, run(digits_config(epochs=1, seed=1, run_name="other"))).root / "checkpoints/other/best.pt"
    finish = Classification.finish

    def exchanged(*arguments: Any) -> Summary:
        Path("checkpoints", NAME, "best.pt").write_bytes(other.read_bytes())
        return finish(*arguments)

    monkeypatch.setattr(Classification, "finish", exchanged)
    with pytest.raises(CheckpointError, match=r"best\.pt: expected the checkpoint of step 11, found another$"):
        run(digits_config(epochs=1))


@pytest.mark.parametrize("damage", ["nested", "cut", "gone", "edited"])
def test_damaged_lines_are_no_obstacle(damage: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted_at(13, lambda: run(digits_config()))
    path = Path("runs", NAME, "metrics.jsonl")
    content = path.read_bytes()
    half = len(content) // 2
    changed = {"nested": b"[" * len(content), "cut": content[:half], "edited": content[:half] + b"x" + content[half:]}
    path.write_bytes(changed[damage]) if damage != "gone" else path.unlink()
    summary = resume(NAME)
    assert summary.state.epoch == 2
    records = records_in(summary.folder)
    assert [record["step"] for record in records] == sorted(record["step"] for record in records)
    assert ("records are lost" in capsys.readouterr().err) == (damage in ("cut", "gone"))


def test_a_checkpoint_of_an_earlier_version_goes_on(here: Path, uninterrupted: Callable[[str], FinishedRun]) -> None:
    interrupted_at(13, lambda: run(digits_config(**COMMON)))
    last = Path("checkpoints", NAME, "last.pt")
    content = load(last)
    del content["content_sha256"]
    for name in ("logs", "ended", "best_sha256"):
        del content["training"][name]
    write_checkpoint(last, content)
    last.with_name("last.previous.pt").unlink()
    with Path("runs", NAME, "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 14, "name": "train/loss", "value": 1}\n')
    assert_same(FinishedRun(here, resume(NAME)), uninterrupted("sgd, one-cycle"))


@pytest.mark.parametrize(
    "fault", [{"step": 10**18}, {"epoch": 10**12}, {"batch": 10**12}, {"batch": 3}, {"epoch_loss_sum": float("nan")}]
)
def test_a_place_that_is_none_in_the_run_is_refused(fault: dict[str, Any], here: Path) -> None:
    interrupted_at(13, lambda: run(digits_config()))
    last = Path("checkpoints", NAME, "last.pt")
    content = load(last)
    del content["content_sha256"]
    content["training"]["state"].update(fault)
    write_checkpoint(last, content)
    last.with_name("last.previous.pt").unlink()
    with pytest.raises(CheckpointError, match=r"last\.pt: training\.state"):
        resume(NAME)


def test_no_checkpoint_decides_where_records_are_written(here: Path) -> None:
    interrupted_at(13, lambda: run(digits_config(runs_dir="elsewhere")))
    before = tree(here)
    with pytest.raises(ConfigError, match=r"--runs-dir: this run was started with 'elsewhere', expected the option"):
        resume(NAME)
    assert tree(here) == before
    assert resume(NAME, "--runs-dir", "elsewhere").folder == Path("elsewhere", NAME)


def test_a_run_goes_on_where_its_folders_were_moved_to(here: Path, uninterrupted: Callable[[str], FinishedRun]) -> None:
    interrupted_at(13, lambda: run(digits_config(**COMMON)))
    Path("moved").mkdir()
    Path("checkpoints").rename("moved/checkpoints")
    Path("runs").rename("moved/runs")
    summary = resume(f"moved/checkpoints/{NAME}", "--runs-dir", "moved/runs")
    assert summary.checkpoints == Path("moved", "checkpoints", NAME)
    expected, weights = uninterrupted("sgd, one-cycle"), load(Path("moved", "checkpoints", NAME, "best.pt"))["model"]
    assert identical(weights, load(expected.best)["model"])
    losses = named(records_in(Path("moved", "runs", NAME)), "train/loss")
    assert losses == named(expected.records, "train/loss")
    assert not Path("checkpoints").exists()
    assert not Path("runs").exists()


# -- the signals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_handlers_come_back(number: signal.Signals) -> None:
    handlers = [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)]
    with StopRequest() as request:
        assert request.requested == ""
        os.kill(os.getpid(), number)
        assert request.requested == number.name
    assert [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)] == handlers


def test_a_second_interrupt_stops_at_once() -> None:
    with StopRequest() as request:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            assert request.requested == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_thread_without_handlers_can_run_too(here: Path) -> None:
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(run(digits_config(epochs=1)).state.step))
    thread.start()
    thread.join()
    assert done == [STEPS_PER_EPOCH]
