"""``python -m benchmarks.speed``: seconds an epoch, ours and what people would pick instead, by turns in one run.

One epoch of each contender a turn (``benchmarks/speed_contenders.py``); the turns are interleaved and medians counted,
so that a busy moment of the machine hits all alike. After the last turn each reads the test images. The *floor* is the
five matrix products of a step and nothing else. Those not installed (extra ``bench``) are left out, by name.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
from dataclasses import dataclass

import torch
from tqdm import tqdm

from benchmarks.speed_contenders import CONTENDERS, VALIDATION, Contender, Task
from lean_mnist.command_line import parse, run_command
from lean_mnist.data.datasets import load_dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import ConfigError


@dataclass(frozen=True)
class Arguments:
    """Time an epoch of ours and of what people would pick instead."""

    repeats: int = 5
    """Epochs of each; the median counts. One more goes before, unmeasured."""
    batch_size: int = 64
    """Examples a step."""
    examples: int = 60_000
    """Training examples an epoch, at most; a hundred are kept for the validation that our trainer always does."""
    dataset: str = "auto"
    """mnist, where it is there; digits otherwise."""
    threads: int = 0
    """Threads of every contender, which runs on so many cores then; 0 leaves both as each takes them by itself."""
    only: str = ""
    """Contenders whose names contain this, or one of several parts with commas between."""
    json: bool = False
    """Print one JSON document."""


def limit_threads(count: int) -> None:
    """Leave this process ``count`` cores and PyTorch as many threads; raises ``ConfigError`` for more than there are.

    XLA and scikit-learn size their pools by the cores that they may run on, when they are first used.
    """
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        if count > len(allowed):
            raise ConfigError(f"--threads: {count}, expected at most {len(allowed)}, the cores of this process")
        os.sched_setaffinity(0, allowed[:count])
    torch.set_num_threads(count)


def task_of(arguments: Arguments) -> Task:
    """The examples that all contenders train on and are tested with."""
    dataset = load_dataset(arguments.dataset, "data")
    train, test = dataset.train, dataset.test
    normalization = Normalization.fit("standard", train.images, dataset.maximum)
    x, x_test = (normalization.apply(split.images).flatten(1) for split in (train, test))
    examples = min(arguments.examples, len(x) - VALIDATION)
    return Task(dataset, x[:examples], train.labels[:examples], x_test, arguments.batch_size, arguments.threads)


def take_turns(contenders: dict[str, Contender], repeats: int) -> dict[str, list[float]]:
    """Seconds of ``repeats`` epochs of each, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with tqdm(total=len(contenders) * (repeats + 1), unit="epoch", file=sys.stderr) as progress:
        for turn in range(repeats + 1):
            for name, contender in contenders.items():
                taken = contender.epoch()
                if turn:  # the first one warms up and compiles
                    seconds[name].append(taken)
                progress.update()
    return seconds


def main() -> None:
    """Time everything that is installed, and print a table."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m benchmarks.speed")
    if arguments.threads:
        limit_threads(arguments.threads)
    task = task_of(arguments)
    contenders, absent = {}, []
    for name, (package, build) in CONTENDERS.items():
        if not any(part in name for part in arguments.only.split(",")):
            continue
        if package is not None and importlib.util.find_spec(package) is None:
            absent.append(name)
            continue
        contenders[name] = build(task)
    seconds = take_turns(contenders, arguments.repeats)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    with torch.no_grad():
        accuracies = {name: contender.accuracy(task) for name, contender in contenders.items()}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    about = (
        f"{task.dataset.name}, {len(task.x):,} examples an epoch, batch {task.batch_size}, "
        f"{arguments.repeats} repeats; {torch.get_num_threads()} threads on {cores} cores, PyTorch {torch.__version__}"
    )
    if arguments.json:
        document = {"about": about, "steps": task.steps, "seconds": seconds, "medians": medians}
        print(json.dumps(document | {"accuracies": accuracies, "absent": absent}))
        return
    print(about)
    ours = medians.get("ours, checks off", float("nan"))
    for name, taken in medians.items():
        line = f"{name:<36} {taken:7.3f} s an epoch {taken / task.steps * 1e6:7.0f} µs a step {taken / ours:6.2f}× ours"
        accuracy, epochs = accuracies[name], contenders[name].epochs or arguments.repeats + 1
        print(line if accuracy is None else f"{line}  {accuracy:.2%} after {epochs} epochs")
    for name in absent:
        print(f"{name:<36} not installed")


if __name__ == "__main__":
    run_command(main)
