"""``python -m lean_mnist.evaluate CHECKPOINT``: accuracy of a checkpoint, class by class."""

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

from lean_mnist.command_line import POSITIONAL, parse, run_command


@dataclass(frozen=True)
class EvaluateArguments:
    """Accuracy, loss, per-class accuracy and confusion matrix of a checkpoint."""

    checkpoint: Annotated[str, POSITIONAL]
    """A run's name or folder, whose best.pt it is, or a checkpoint."""
    dataset: str | None = None
    """Name of a data set, or path of own data; what it was trained on if not given."""
    split: Literal["test", "validation", "train"] = "test"
    """validation and train are cut as the run cut them."""
    data_dir: str | None = None
    """Searched after the folder that LEAN_MNIST_DATA names; the run's if not given."""
    plots: str | None = None
    """Folder for pictures: reliability, risk by coverage, misread digits, weights, bounds by examples, bits, delta."""
    json: bool = False
    """Print one JSON document."""


def main() -> None:
    """Read the command line, evaluate, print the report or its JSON."""
    arguments = parse(EvaluateArguments, sys.argv[1:], prog="python -m lean_mnist.evaluate")
    from lean_mnist.training.evaluation.report import evaluate_checkpoint

    report = evaluate_checkpoint(arguments)
    print(report.to_json() if arguments.json else report)


if __name__ == "__main__":
    run_command(main)
