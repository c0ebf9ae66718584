"""``python -m benchmarks.perceptrons``: the times of MLCERT's perceptron experiments beside ours.

Reads ``mlcert/kernel_perceptron/*.dat`` from the folder that ``LEAN_MNIST_DATA`` names; the results are those of
``python -m lean_mnist.learners``. MLCERT's times are its own, on another machine: the programs extracted to Haskell,
and where marked NumPy, its ``BudgetPythonNumpy.py`` (medians of the logs in
``hs/KernelPerceptron/timing_drivers/timing_outputs``; 201.5 s is the mean of 20 synthetic sets). Ours include learning
and predicting both splits, not reading, the best of ``--repeats``; "epochs" says how many had to be computed, because
once the parameters come back all that follows is known.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np

from lean_mnist.command_line import parse, run_command
from lean_mnist.generalization.learners.experiments import (
    LEARNERS,
    MLCERT,
    PUBLISHED,
    LearnerSettings,
    learn_and_count,
    mlcert_folder,
)
from lean_mnist.generalization.learners.perceptrons import Examples


@dataclass(frozen=True)
class Arguments:
    """Time MLCERT's perceptron experiments."""

    repeats: int = 5
    """Runs of each; the fastest counts."""
    json: bool = False
    """Print one JSON document."""


# Seconds, and whose.
TIMES = {
    ("kernel", "synthetic 1"): (201.5, "Haskell"),
    ("kernel", "synthetic 2"): (201.5, "Haskell"),
    ("kernel", "synthetic 3"): (201.5, "Haskell"),
    ("kernel", "sonar 50"): (1046.586, "Haskell"),
    ("budget", "synthetic 1"): (0.425, "NumPy"),
    ("budget", "synthetic 2"): (0.403, "NumPy"),
    ("budget", "synthetic 3"): (0.409, "NumPy"),
    ("budget", "sonar 50"): (78.045, "Haskell"),
}


@dataclass(frozen=True)
class Row:
    learner: str
    data: str
    train: float
    test: float
    as_published: bool | None
    epochs: int
    epochs_computed: int
    seconds: float
    seconds_theirs: float | None
    theirs: str | None
    speed_up: float | None


def measure(kind: str, settings: LearnerSettings, train: Examples, test: Examples, repeats: int) -> Row:
    """Learn and count, ``repeats`` times."""
    learner, seconds, found = settings.learner(kind, train.x.shape[1]), [], set()
    for _ in range(repeats):
        start = time.perf_counter()
        found.add(learn_and_count(learner, train, test, settings.epochs))
        seconds.append(time.perf_counter() - start)
    ((train_correct, test_correct, computed),) = found
    place = kind, settings.name
    published, (theirs, whose) = PUBLISHED.get(place), TIMES.get(place, (None, None))
    return Row(
        learner=kind,
        data=settings.name,
        train=train_correct / len(train),
        test=test_correct / len(test),
        as_published=None if published is None else published == (train_correct, test_correct),
        epochs=settings.epochs,
        epochs_computed=computed,
        seconds=min(seconds),
        seconds_theirs=theirs,
        theirs=whose,
        speed_up=None if theirs is None else theirs / min(seconds),
    )


def main() -> None:
    """Run every learner on every set and print a table."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m benchmarks.perceptrons")
    folder, rows = mlcert_folder(None), []
    for settings in MLCERT:
        train, test = settings.read(folder)
        rows += [measure(kind, settings, train, test, max(1, arguments.repeats)) for kind in LEARNERS]
    if arguments.json:
        print(json.dumps({"numpy": np.__version__, "rows": [asdict(row) for row in rows]}))
        return
    print(
        "data         learner      train      test       as published  epochs          seconds   "
        "theirs            speed-up"
    )
    for row in rows:
        same = {True: "yes", False: "NO", None: "–"}[row.as_published]
        theirs = "–" if row.seconds_theirs is None else f"{row.seconds_theirs:g} ({row.theirs})"
        epochs = f"{row.epochs_computed:,} of {row.epochs:,}"
        times = "–" if row.speed_up is None else f"{row.speed_up:,.0f} ×"
        print(
            f"{row.data:<12} {row.learner:<12} {row.train:<10.6f} {row.test:<10.6f} {same:<13} {epochs:<15} "
            f"{row.seconds:<9.4f} {theirs:<17} {times}"
        )


if __name__ == "__main__":
    run_command(main)
