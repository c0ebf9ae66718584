"""``python -m lean_mnist.evaluate CHECKPOINT``: how good a checkpoint is, class by class."""

import sys

from lean_mnist.command_line import parse, run_command
from lean_mnist.training.evaluation.report import EvaluateArguments


def main() -> None:
    """Read the command line, evaluate, print the report or its JSON."""
    arguments = parse(EvaluateArguments, sys.argv[1:], prog="python -m lean_mnist.evaluate")
    from lean_mnist.training.evaluation.report import evaluate_checkpoint

    report = evaluate_checkpoint(arguments)
    print(report.to_json() if arguments.json else report)


if __name__ == "__main__":
    run_command(main)
