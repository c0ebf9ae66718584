"""MLCERT's perceptron experiments: their data sets and settings, published results, and what is certified of ours."""

import math
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lean_mnist.data.names import DATA_VARIABLE
from lean_mnist.errors import ArgumentError, DataError
from lean_mnist.generalization.bounds import upper_risk
from lean_mnist.generalization.exact import Exact, percent
from lean_mnist.generalization.learners import perceptrons
from lean_mnist.generalization.learners.perceptrons import Examples, Learner, correct
from lean_mnist.generalization.solve import certified_risk
from lean_mnist.reading.files import read_bytes
from lean_mnist.reading.text import printable, shown

_WHAT = "lines index,x1,..,xn,True|False"
_LARGEST_FILE = 1 << 22  # bytes
_LONGEST_NUMBER = 100  # characters


def read_examples(path: str | Path) -> Examples:
    """The examples of a file of lines ``index,x_1,…,x_n,True|False``, the index counting down to 0; at most 4 MiB.

    Each number is the float32 nearest to the decimal that is written, not to the float64 nearest to it. Raises
    ``DataError``, naming file and line, for anything else.
    """
    try:
        lines = read_bytes(path, _WHAT, largest=_LARGEST_FILE).decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{shown(path)}: not a text file of ASCII, expected {_WHAT}") from None
    if not lines:
        raise DataError(f"{shown(path)}: empty, expected {_WHAT}")
    numbers, labels, features = array("d"), [], lines[0].count(",") - 1
    for number, line in enumerate(lines, 1):
        index, *fields = line.split(",")
        where = f"{shown(path)}, line {number}"
        if index != str(len(lines) - number):
            found = printable(repr(index), 60)
            raise DataError(f"{where}: index {found}, expected {len(lines) - number}, counting down to 0")
        if len(fields) != features + 1 or features < 1:
            raise DataError(f"{where}: {len(fields)} fields after the index, expected {max(features, 1) + 1}")
        if fields[-1] not in ("True", "False"):
            raise DataError(f"{where}: label {printable(repr(fields[-1]), 60)}, expected True or False")
        labels.append(fields[-1] == "True")
        numbers.extend(_number(field, where) for field in fields[:-1])
    doubles = np.frombuffer(numbers)
    x = doubles.astype(np.float32)
    # Rounding twice goes wrong only where the float64 lies exactly between two float32: then the decimal decides.
    for place in np.flatnonzero((doubles.view(np.uint64) & 0x1FFFFFFF) == 0x10000000).tolist():
        row, column = divmod(place, features)
        x[place] = _nearest_float32(Fraction(lines[row].split(",")[column + 1]), x[place])
    return Examples(x.reshape(len(lines), features), np.array(labels))


def _number(text: str, where: str) -> float:
    try:
        value = float(text) if len(text) <= _LONGEST_NUMBER and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not abs(value) <= 3.4e38:
        raise DataError(f"{where}: {printable(repr(text), 60)}, expected a finite number")
    return value


def _nearest_float32(exact: Fraction, near: np.float32) -> np.float32:
    around = [np.nextafter(near, np.float32(end)) for end in (-math.inf, math.inf)]
    return min((near, *around), key=lambda end: (abs(Fraction(float(end)) - exact), int(end.view(np.uint32)) & 1))


LEARNERS = ("perceptron", "kernel", "budget", "description")
_COLUMNS = "{:<12} {:<12} {:<15} {:<15} {:<10} {:<9} {:<17} {:<20} {}"


@dataclass(frozen=True)
class LearnerSettings:
    """A pair of data files, and the settings with which the learners run on it."""

    name: str
    train: str
    test: str
    epochs: int
    budget: int
    description: int
    limit: int
    kernel: str = "linear"

    def learner(self, kind: str, features: int) -> Learner:
        """The learner called ``kind``, one of ``LEARNERS``; raises ``ArgumentError``."""
        if kind == "perceptron":
            return perceptrons.Perceptron(features)
        if kind == "kernel":
            return perceptrons.KernelPerceptron(features, self.kernel)
        if kind == "budget":
            return perceptrons.BudgetKernelPerceptron(features, self.budget, self.kernel)
        if kind == "description":
            return perceptrons.DescriptionKernelPerceptron(features, self.description, self.limit, self.kernel)
        raise ArgumentError(f"learner: {kind!r}, expected one of {', '.join(LEARNERS)}")

    def read(self, folder: Path) -> tuple[Examples, Examples]:
        """The training and the test examples below ``folder``; raises ``DataError``."""
        return read_examples(folder / self.train), read_examples(folder / self.test)


MLCERT = (
    *(LearnerSettings(f"synthetic {k}", f"out{k}train.dat", f"out{k}test.dat", 5, 100, 99, 100) for k in (1, 2, 3)),
    LearnerSettings("iris 50", "iris50train.dat", "iris50test.dat", 5, 7, 6, 7),
    LearnerSettings("iris 75", "iris75train.dat", "iris25test.dat", 5, 11, 10, 11),
    LearnerSettings("sonar 50", "sonar50normtrain.dat", "sonar50normtest.dat", 10_000, 11, 10, 11),
)

#: (learner, data) -> (correct on train, correct on test) as MLCERT's programs print them, where it is on record for
#: this very set: hs/KernelPerceptron/timing_drivers/timing_outputs/{pythonbudget20,kp50,budget50}.txt.
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


def mlcert_folder(given: str | None) -> Path:
    """The folder of MLCERT's perceptron data, the ``given`` one or that below LEAN_MNIST_DATA; raises ``DataError``."""
    root, wanted = os.environ.get(DATA_VARIABLE, ""), "expected where out1train.dat and others are"
    folder = Path(given) if given is not None else Path(root, "mlcert", "kernel_perceptron")
    if given is None and not root:
        raise DataError(f"FOLDER: none given and {DATA_VARIABLE} is not set, {wanted}")
    if not folder.is_dir():
        raise DataError(
            f"{shown(folder)}: no such folder, expected one that holds out1train.dat and MLCERT's other files"
        )
    return folder


def learn_and_count(learner: Learner, train: Examples, test: Examples, epochs: int) -> tuple[int, int, int]:
    """Train for so many ``epochs``; correct predictions on ``train`` and ``test``, and passes that were computed."""
    parameters, computed = learner.learn(train, epochs)
    return correct(learner, parameters, train), correct(learner, parameters, test), computed


@dataclass(frozen=True)
class CertifiedLearner:
    """A trained learner's counts, and what they certify with confidence 1 − ``delta``, each claim by itself."""

    learner: str
    data: str
    train_examples: int
    train_correct: int
    test_examples: int
    test_correct: int
    published: tuple[int, int] | None
    bits: int
    epochs: int
    epochs_computed: int
    delta: Fraction
    union_risk: Fraction | None
    holdout_risk: Fraction | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; exact numbers as text."""
        return {name: str(value) if isinstance(value, Fraction) else value for name, value in vars(self).items()}


def certify_learner(
    kind: str, settings: LearnerSettings, train: Examples, test: Examples, delta: Exact
) -> CertifiedLearner:
    """Train the learner called ``kind`` on ``train`` and certify its risk, from both splits.

    ``union_risk`` is by :func:`union_risk` from the training examples, ``holdout_risk`` by Clopper and Pearson's bound
    from the test examples; ``None`` where the bound says nothing. Raises ``ArgumentError`` or ``BoundError``.
    """
    learner = settings.learner(kind, train.x.shape[1])
    train_correct, test_correct, computed = learn_and_count(learner, train, test, settings.epochs)
    holdout = upper_risk("clopper-pearson", len(test) - test_correct, len(test), delta)
    return CertifiedLearner(
        learner=kind,
        data=settings.name,
        train_examples=len(train),
        train_correct=train_correct,
        test_examples=len(test),
        test_correct=test_correct,
        published=PUBLISHED.get((kind, settings.name)),
        bits=learner.bits(len(train)),
        epochs=settings.epochs,
        epochs_computed=computed,
        delta=Fraction(delta),
        union_risk=union_risk(learner, len(train) - train_correct, len(train), delta),
        holdout_risk=holdout if holdout < 1 else None,
    )


def union_risk(learner: Learner, errors: int, m: int, delta: Exact, bound: str = "kl") -> Fraction | None:
    """A bound on the risk of parameters learnt from the very ``m`` examples on which they now make ``errors``.

    It holds for all 2^B parameters at once, B = ``learner.bits(m)``. ``None`` where it says nothing: for a kernel
    perceptron whatever m is. Raises ``BoundError`` for impossible numbers.
    """
    # With 64 bits an example every bound leaves 1 − p ≤ 2^−64, which no decimal of 12 digits tells from 0.
    risk = certified_risk(bound, errors, m, delta, min(learner.bits(m), 64 * m))
    return risk if risk < 1 else None


def results_table(results: Sequence[CertifiedLearner]) -> str:
    """The results in lines for people: counts, agreement with what is published, and certified risks, rounded up."""
    titles = ("data", "learner", "train", "test", "published", "bits", "epochs", "risk by training", "risk by test")
    return "\n".join(_COLUMNS.format(*row) for row in (titles, *map(_row, results)))


def _row(result: CertifiedLearner) -> tuple[str, ...]:
    same = result.published == (result.train_correct, result.test_correct)
    return (
        result.data,
        result.learner,
        f"{result.train_correct} of {result.train_examples}",
        f"{result.test_correct} of {result.test_examples}",
        "–" if result.published is None else "agrees" if same else "DIFFERS",
        f"{result.bits:,}",
        f"{result.epochs_computed:,} of {result.epochs:,}",
        _said(result.union_risk),
        _said(result.holdout_risk),
    )


def _said(risk: Fraction | None) -> str:
    return "says nothing" if risk is None or risk > Fraction(9999, 10_000) else f"≤ {percent(risk, up=True)}"
