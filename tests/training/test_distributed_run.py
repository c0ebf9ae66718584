"""Whole runs by several processes: the same trajectory, one writer, faults of one rank, a rank that dies, resuming."""

import math
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lean_mnist.audit.native_screen import NativeScreen
from lean_mnist.errors import ConfigError, DataError, GradientMismatch, LeanMnistError, RankLost
from lean_mnist.invocation import typed
from lean_mnist.nn.engine.native import NativeEngine
from lean_mnist.nn.step import StepResult, StepTape, put_flat_gradients
from lean_mnist.training.arguments import read_arguments
from lean_mnist.training.distributed import World, from_environment
from lean_mnist.training.run import run
from lean_mnist.training.state import CheckSummary
from tests.support.distributed_cases import PATIENCE, ThreadTransport, together
from tests.support.planting import Plant
from tests.support.training_cases import (
    LAST,
    NAME,
    REPOSITORY,
    STEPS_PER_EPOCH,
    FinishedRun,
    digits_config,
    digits_run,
    load,
    named,
    records_in,
    surroundings,
)


def failure(outcomes: list[tuple[Any, LeanMnistError | None]], kind: type[LeanMnistError]) -> str:
    """What every rank raised and one of them says."""
    errors = [error for _, error in outcomes]
    assert [type(error) for error in errors] == [kind] * len(errors), errors
    assert len({str(error) for error in errors}) == 1, errors
    assert [error.reported_elsewhere for error in errors if error] == [False] + [True] * (len(errors) - 1)
    return str(errors[0])


def distance(a: Path, b: Path) -> float:
    """Between the weights of two checkpoints, relative."""
    ours, theirs = (torch.cat([p.flatten().double() for p in load(path)["model"].values()]) for path in (a, b))
    return float((ours - theirs).norm() / theirs.norm())


def test_two_processes_train_as_one_does(here: Path, short_run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lean_mnist.training.distributed.transport._START", PATIENCE)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    options = ["--dataset", "digits", "--epochs", "2", "--run-name", NAME, "--check", "full"]
    environment = {**surroundings(), **meeting, "RANK": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "lean_mnist.train", *options]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as other:
        for name, value in {**meeting, "RANK": "0"}.items():
            monkeypatch.setenv(name, value)
        config, _ = read_arguments([*options, "--quiet"])
        with from_environment("cpu") as world:
            summary = run(config, None, world)
        out, _ = other.communicate()
    assert (other.returncode, out) == (0, b"")  # what is to be said, rank 0 says
    assert distance(LAST, short_run.last) < 1e-5
    assert summary.test.errors == short_run.summary.test.errors
    assert (summary.state.step, summary.state.checks.screens) == (2 * STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH)
    records = records_in(Path("runs", NAME))
    for name in ("train/loss", "train/epoch_loss", "gradient_norm/all", "validation/loss"):
        assert named(records, name) == pytest.approx(named(short_run.records, name), rel=1e-5)


@pytest.mark.parametrize("size", [2, 3])
def test_parts_may_be_empty_and_batches_accumulated(size: int, here: Path) -> None:
    options: dict[str, Any] = {"batch_size": 439, "accumulate": 3, "clip_norm": 0.5, "check": "screen", "epochs": 2}
    alone = digits_run(here, **options, run_name="alone").root / "checkpoints" / "alone" / "last.pt"
    outcomes = together(size, lambda world: run(digits_config(**options), None, world))  # the last batch is of one
    assert [error for _, error in outcomes] == [None] * size
    assert distance(LAST, alone) < 1e-6
    assert {(summary.state.step, summary.state.examples, summary.state.checks.screens) for summary, _ in outcomes} == {
        (4, 2 * 1318, 4)
    }


@pytest.mark.parametrize("engine", ["eager", "native"])
def test_a_wrong_gradient_of_one_rank_is_named_and_applied_nowhere(engine: str, here: Path, plant: Plant) -> None:
    calls: list[int] = []
    shares: list[float | None] = []  # of the screen in C
    right = put_flat_gradients if engine == "eager" else NativeEngine.step

    def wrong(first: Any, *arguments: Any) -> StepResult:
        result = right(first, *arguments)
        if threading.current_thread().name == "rank 1":
            calls.append(0)
            if len(calls) == STEPS_PER_EPOCH + 2:
                weight_gradient = result.gradients[0][0]
                assert weight_gradient is not None
                weight_gradient[3, 5] += 1
        return result

    def shown(screen: NativeScreen, tape: StepTape, loss: float) -> float | None:
        shares.append(share(screen, tape, loss))
        return shares[-1]

    share = NativeScreen.share
    plant("audit.native_screen.NativeScreen.share", shown)
    planted = (
        "nn.engine.native.NativeEngine.step"
        if engine == "native"
        else "training.objectives.classification.put_flat_gradients"
    )
    plant(planted, wrong)
    config = digits_config(check="screen", engine=engine)
    message = failure(together(2, lambda world: run(config, None, world)), GradientMismatch)
    if engine == "native":
        assert len(shares) == 2 * (STEPS_PER_EPOCH + 2)
        assert sum(found is not None and found <= 1 for found in shares) == len(shares) - 1
    assert message.startswith(f"rank 1: gradient check failed at step {STEPS_PER_EPOCH + 2}: layers.0.weight[3, 5]: ")
    assert Path("runs", NAME, "failures", f"step-{STEPS_PER_EPOCH + 2}-rank-1.pt").is_file()
    assert load(LAST)["training"]["state"]["step"] == STEPS_PER_EPOCH


def test_a_gradient_that_is_changed_on_its_way_is_named_by_its_place(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThreadTransport, "shares", False)

    def sent(rank: int, call: int, vector: Tensor) -> None:
        if rank == 1:
            vector[5 * 128 + 3] += vector.norm()  # the weights of 64-128-10 lie column by column

    message = failure(together(2, lambda w: run(digits_config(check="off"), None, w), sent=sent), GradientMismatch)
    assert "layers.0.weight[3, 5]: " in message


def test_a_rank_that_dies_leaves_a_run_that_one_process_goes_on_with(here: Path, short_run: FinishedRun) -> None:
    def sent(rank: int, call: int, vector: Tensor) -> None:
        if rank == 1 and call == STEPS_PER_EPOCH + 3:
            sys.exit()

    outcomes: list[Any] = together(2, lambda world: run(digits_config(check="off"), None, world), sent=sent)
    assert outcomes[1] is None
    (_, lost), _ = outcomes
    assert isinstance(lost, RankLost)
    assert str(lost).startswith(f"rank 1 died or no longer answers (at step {STEPS_PER_EPOCH + 4}; ")
    assert str(lost).endswith(f": {typed('python -m lean_mnist.train', '--resume', LAST.parent)}")
    run(digits_config(check="off"), LAST)
    assert distance(LAST, short_run.last) < 1e-5


def test_nothing_is_written_where_the_ranks_cannot_begin(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**changes: Any) -> list[tuple[Any, LeanMnistError | None]]:
        return together(2, lambda world: run(digits_config(**changes, seed=world.rank), None, world))

    message = failure(start(), ConfigError)
    assert message.startswith("the processes were started differently: --seed is 0 on rank 0, 1 on rank 1")
    assert "expected at least one example for each of the 2 processes, found 1" in failure(
        start(batch_size=1), ConfigError
    )
    from lean_mnist.data.datasets import load_dataset

    def absent(*arguments: Any, says: bool, **options: Any) -> Any:
        if threading.current_thread().name == "rank 1":
            assert not says
            raise DataError("no digits")
        return load_dataset(*arguments, says=says, **options)

    monkeypatch.setattr("lean_mnist.training.run.load_dataset", absent)
    assert failure(start(), DataError) == "rank 1: no digits"
    assert list(here.iterdir()) == []


def test_an_error_of_every_rank_is_said_once_and_without_their_names() -> None:
    def fail() -> None:
        raise DataError("no digits")

    assert failure(together(2, lambda world: world.everywhere(fail)), DataError) == "no digits"

    def full() -> None:
        raise OSError(28, "No space left on device", "last.pt")

    message = failure(together(2, lambda world: world.on_writer(full)), LeanMnistError)
    assert message == "last.pt: No space left on device"


def test_weights_that_drift_apart() -> None:
    def act(world: World) -> None:
        weights = torch.ones(5)
        world.same_weights(weights, 1)
        weights[3] += 1e-6 * (world.rank == 1)
        world.same_weights(weights, 2)

    message = failure(together(3, act), GradientMismatch)
    assert message.startswith("after step 2 the weights of rank 1 are not those of rank 0")
    assert together(1, act) == [(None, None)]


def test_what_ranks_find_is_put_together() -> None:
    before = CheckSummary(comparisons=2, failures=1, first_failure="step 3: a", largest_divergence=0.5, largest_at="b")
    own = [before.of_rank(rank) for rank in range(3)]
    for rank, ledger in enumerate(own):
        ledger.comparisons += 1 if rank else 0  # rank 0 had no part of the batch
        ledger.screens += 7
    own[2].add_failure(5, "c")
    own[1].largest_divergence, own[1].largest_at = math.nan, "d"
    merged = before.merged(own)
    assert (merged.comparisons, merged.screens, merged.failures) == (3, 7, 2)
    assert (merged.first_failure, merged.largest_at) == ("step 3: a", "d")
    assert math.isnan(merged.largest_divergence)
    assert CheckSummary().merged([CheckSummary(), own[2]]).first_failure == "rank 1: step 5: c"
    assert before.merged(own[:1]) is own[0]
