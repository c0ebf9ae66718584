"""``python -m benchmarks.perceptrons``: MLCERT's perceptron experiments, their results and times beside ours.

Reads ``mlcert/kernel_perceptron/*.dat`` from the folder that ``LEAN_MNIST_DATA`` names. The results are compared with
those that MLCERT's own programs printed for the same files; its times are theirs, on another machine: the programs
extracted to Haskell, and where marked NumPy, its ``BudgetPythonNumpy.py`` (medians of the logs in
``hs/KernelPerceptron/timing_drivers/timing_outputs``; 201.5 s is the mean of 20 synthetic sets). Ours include learning
and predicting both splits, not reading, the best of ``--repeats``; "epochs" says how many had to be computed, because
once the parameters come back all that follows is known.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lean_mnist.command_line import parse, run_command
from lean_mnist.data.names import DATA_VARIABLE
from lean_mnist.errors import DataError
from lean_mnist.generalization.learners import (
    BudgetKernelPerceptron,
    DescriptionKernelPerceptron,
    Examples,
    KernelPerceptron,
    Learner,
    correct,
    is_vacuous,
    read_examples,
)


@dataclass(frozen=True)
class Arguments:
    """Repeat MLCERT's perceptron experiments."""

    repeats: int = 5
    """Runs of each; the fastest counts."""
    json: bool = False
    """Print one JSON document."""


@dataclass(frozen=True)
class Case:
    name: str
    train: str
    test: str
    epochs: int
    budget: int
    description: int
    limit: int


CASES = (
    *(Case(f"synthetic {k}", f"out{k}train", f"out{k}test", 5, 100, 99, 100) for k in (1, 2, 3)),
    Case("iris 50", "iris50train", "iris50test", 5, 7, 6, 7),
    Case("iris 75", "iris75train", "iris25test", 5, 11, 10, 11),
    Case("sonar 50", "sonar50normtrain", "sonar50normtest", 10_000, 11, 10, 11),
)

# (correct on train, correct on test) as MLCERT's programs print them, where it is on record for this very set.
PUBLISHED = {
    ("kernel", "iris 50"): (77, 73),
    ("kernel", "iris 75"): (113, 37),
    ("kernel", "sonar 50"): (116, 64),
    ("budget", "synthetic 1"): (966, 963),
    ("budget", "synthetic 2"): (1000, 997),
    ("budget", "synthetic 3"): (994, 993),
    ("budget", "iris 50"): (77, 73),
    ("budget", "iris 75"): (113, 37),
    ("budget", "sonar 50"): (64, 47),
    ("description", "iris 50"): (77, 73),
    ("description", "iris 75"): (113, 37),
}
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
    m: int
    train_correct: int
    train: float
    test_examples: int
    test_correct: int
    test: float
    as_published: bool | None
    bits: int
    union_bound_vacuous: bool
    epochs: int
    epochs_computed: int
    seconds: float
    seconds_theirs: float | None
    theirs: str | None
    speed_up: float | None


def folder() -> Path:
    """Where the data are; raises ``DataError``."""
    root = os.environ.get(DATA_VARIABLE, "")
    path = Path(root) / "mlcert" / "kernel_perceptron"
    if not root or not path.is_dir():
        raise DataError(f"{DATA_VARIABLE}: {root or 'not set'}, expected a folder that holds mlcert/kernel_perceptron")
    return path


def learners(case: Case, features: int) -> dict[str, Learner[Any]]:
    """The three learners with the settings of MLCERT's drivers."""
    return {
        "kernel": KernelPerceptron(features),
        "budget": BudgetKernelPerceptron(features, case.budget),
        "description": DescriptionKernelPerceptron(features, case.description, case.limit),
    }


def measure(name: str, learner: Learner[Any], case: Case, train: Examples, test: Examples, repeats: int) -> Row:
    """Learn and count, ``repeats`` times."""
    seconds, counts, computed = [], set(), list[int]()
    for _ in range(repeats):
        start = time.perf_counter()
        parameters = learner.learn(train, case.epochs, report=computed.append)
        counts.add((correct(learner, parameters, train), correct(learner, parameters, test)))
        seconds.append(time.perf_counter() - start)
    ((right, right_test),) = counts
    published, (theirs, whose) = PUBLISHED.get((name, case.name)), TIMES.get((name, case.name), (None, None))
    return Row(
        learner=name,
        data=case.name,
        m=len(train),
        train_correct=right,
        train=right / len(train),
        test_examples=len(test),
        test_correct=right_test,
        test=right_test / len(test),
        as_published=None if published is None else published == (right, right_test),
        bits=learner.bits(len(train)),
        union_bound_vacuous=is_vacuous(learner.bits(len(train)), len(train)),
        epochs=case.epochs,
        epochs_computed=computed[0],
        seconds=min(seconds),
        seconds_theirs=theirs,
        theirs=whose,
        speed_up=None if theirs is None else theirs / min(seconds),
    )


def main() -> None:
    """Run every learner on every set and print a table."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m benchmarks.perceptrons")
    source, rows = folder(), []
    for case in CASES:
        train, test = read_examples(source / f"{case.train}.dat"), read_examples(source / f"{case.test}.dat")
        for name, learner in learners(case, train.x.shape[1]).items():
            rows.append(measure(name, learner, case, train, test, max(1, arguments.repeats)))
    if arguments.json:
        print(json.dumps({"numpy": np.__version__, "rows": [asdict(row) for row in rows]}))
        return
    print(
        "data         learner      train      test       as published  bits     epochs          seconds   "
        "theirs            speed-up"
    )
    for row in rows:
        same = {True: "yes", False: "NO", None: "—"}[row.as_published]
        theirs = "—" if row.seconds_theirs is None else f"{row.seconds_theirs:g} ({row.theirs})"
        epochs = f"{row.epochs_computed:,} of {row.epochs:,}"
        times = "—" if row.speed_up is None else f"{row.speed_up:,.0f} ×"
        print(
            f"{row.data:<12} {row.learner:<12} {row.train:<10.6f} {row.test:<10.6f} {same:<13} {row.bits:<8}"
            f" {epochs:<15} {row.seconds:<9.4f} {theirs:<17} {times}"
        )
    vacuous = sorted({row.learner for row in rows if row.union_bound_vacuous})
    print(f"the union bound says nothing for these m: {', '.join(vacuous)}; for the kernel perceptron it never does")


if __name__ == "__main__":
    run_command(main)
