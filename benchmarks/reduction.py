"""``python -m benchmarks.reduction``: epochs of one process of two threads, and of two processes of one thread.

Every row is a network of two wide hidden layers and a batch; the two ways take turns, each from its start, with the
checks of the defaults. Seconds are those of an epoch's steps, medians over all epochs but each run's first.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from lean_mnist.command_line import parse, run_command
from lean_mnist.data.datasets import load_dataset
from lean_mnist.nn.update import Update
from lean_mnist.training.config import Config
from lean_mnist.training.config.optimizers import build_optimizer
from lean_mnist.training.distributed import World, from_environment
from lean_mnist.training.hooks.step import FailurePolicy
from lean_mnist.training.objectives.classification import Classification
from lean_mnist.training.run import threads
from lean_mnist.training.sinks.records import Scalar
from lean_mnist.training.state import RunState
from lean_mnist.training.trainer import Trainer

WAYS = {"one process, two threads": (1, 2), "two processes, one thread": (2, 1)}  # processes, threads of each


@dataclass(frozen=True)
class Arguments:
    """Compare two processes with two threads."""

    dataset: str = "mnist"
    """Data set of every run."""
    examples: int = 20_000
    """Training examples."""
    width: tuple[int, ...] = (512, 1024, 2048)
    """Widths of both hidden layers; each with the first batch size."""
    batch: tuple[int, ...] = (256, 1024, 4096)
    """Batch sizes; each with the second width."""
    epochs: int = 4
    """Epochs of a run; the first is not counted."""
    repeats: int = 3
    """Runs of each way."""
    part: str = ""
    """One run of the comparison, in JSON: what the processes are started with."""


def train(world: World, options: dict[str, Any]) -> dict[str, float]:
    """Medians over the epochs of a run but the first: seconds of an epoch's steps, and of the exchange in a step."""
    config = Config(**options, validation_size=1000, lr=0.05, device="cpu")
    state, speeds, exchange = RunState(), list[float](), list[float]()
    objective = Classification(config, load_dataset(config.dataset, config.data_dir), world)
    flat = objective.parameters
    update = Update(flat.network, build_optimizer(config, [flat.vector]), config.clip_norm, flat)

    def emit(record: Any) -> None:
        if isinstance(record, Scalar) and record.name == "throughput/examples_per_second":
            speeds.append(record.value)

    if world.size > 1:
        world.prepare(flat.layout, flat.gradient, config.seed)
        for name in ("snapshot", "reduce"):
            setattr(world, name, _timed(getattr(world, name), exchange))
    trainer = Trainer(
        objective, update, objective.hooks(state, FailurePolicy(state.checks, stop=True)), state,
        emit=emit, save=lambda which: None, stop_requested=lambda: False, world=world,
    )  # fmt: skip
    trainer.fit()
    seconds = statistics.median(len(objective.batches.split) / speed for speed in speeds[1:])
    pairs = [before + after for before, after in zip(exchange[::2], exchange[1::2], strict=True)]
    return {"seconds": seconds, "exchange": statistics.median(pairs or [0.0])}


def _timed(method: Any, seconds: list[float]) -> Any:
    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.thread_time()
        result = method(*arguments, **options)
        seconds.append(time.thread_time() - started)
        return result

    return timed


def compare(arguments: Arguments, width: int, batch: int) -> None:
    """Print a row."""
    options = {
        "dataset": arguments.dataset, "limit_train": arguments.examples, "epochs": arguments.epochs,
        "hidden": [width, width], "batch_size": batch,
    }  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for _ in range(arguments.repeats):
        for name, (processes, count) in WAYS.items():
            launch = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"] if processes > 1 else []
            run = json.dumps({**options, "threads": count})
            done = subprocess.run(
                [sys.executable, *launch, "-m", "benchmarks.reduction", "--part", run],
                env={**os.environ, "OMP_NUM_THREADS": str(count)}, stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            found[name].append(json.loads(done.stdout))
    medians = {name: statistics.median(run["seconds"] for run in runs) for name, runs in found.items()}
    exchange = statistics.median(run["exchange"] for run in found["two processes, one thread"]) * 1e3
    one, two = medians.values()
    print(
        f"2 x {width:<5} batch {batch:<5} {one:7.3f} s an epoch of one process, {two:7.3f} s of two: "
        f"{two / one:.2f} times; exchange {exchange:.1f} ms of processor a step",
        flush=True,
    )


def main() -> None:
    """Compare, or make one run."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m benchmarks.reduction")
    if arguments.part:
        options = json.loads(arguments.part)
        with threads(options["threads"]), from_environment("cpu") as world:
            found = train(world, options)
            if world.is_writer:
                print(json.dumps(found))
        return
    rows = [(width, arguments.batch[0]) for width in arguments.width]
    for width, batch in dict.fromkeys([*rows, *((arguments.width[1], batch) for batch in arguments.batch[1:])]):
        compare(arguments, width, batch)


if __name__ == "__main__":
    run_command(main)
