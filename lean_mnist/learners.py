"""``python -m lean_mnist.learners``: train MLCERT's perceptrons, compare with its results, and certify their risk."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from lean_mnist.command_line import POSITIONAL, parse, refuse, run_command
from lean_mnist.errors import ConfigError

Kind = Literal["perceptron", "kernel", "budget", "description"]


@dataclass(frozen=True)
class LearnersArguments:
    """Train the perceptron family on MLCERT's data, or on files like them, and certify the risk of each learner.

    A risk is certified twice: from the training examples, by a union bound over all parameters that could have been
    learnt (kl), and from the test examples (Clopper and Pearson); each with its own δ.
    """

    folder: Annotated[str | None, POSITIONAL] = None
    """Holds MLCERT's files out1train.dat, …; mlcert/kernel_perceptron in LEAN_MNIST_DATA if not given."""
    learner: tuple[Kind, ...] = get_args(Kind)
    """Which learners."""
    train: str | None = None
    """Instead of MLCERT's sets, a file of lines index,x1,…,xn,True|False, the index counting down to 0."""
    test: str | None = None
    """With --train: examples in such a file that nothing is learnt from."""
    epochs: int = 5
    """With --train: passes over the training examples."""
    budget: int = 100
    """With --train: support vectors of the budget kernel perceptron, less one."""
    description: int = 99
    """With --train: support vectors of the description kernel perceptron, less one."""
    limit: int = 100
    """With --train: mistakes after which the description kernel perceptron stops learning."""
    kernel: Literal["linear", "quadratic"] = "linear"
    """With --train: the kernel x·z or its square."""
    delta: str = "0.035"
    """Failure probability of each claim, exact, as 0.035, 1e-9 or 7/200."""
    json: bool = False
    """Print one JSON document."""


def main() -> None:
    """Read the command line, train, certify, print the table or the document."""
    arguments = parse(LearnersArguments, sys.argv[1:], prog="python -m lean_mnist.learners")
    from lean_mnist.generalization.learners import experiments

    if (arguments.train is None) != (arguments.test is None) or (arguments.train and arguments.folder):
        raise ConfigError("--train: expected both --train FILE and --test FILE, or a FOLDER, or none of them")
    folder, settings = Path(), list(experiments.MLCERT)
    if arguments.train is None or arguments.test is None:
        refuse(arguments, ("epochs", "budget", "description", "limit", "kernel"), "expected with --train alone")
        folder = experiments.mlcert_folder(arguments.folder)
    else:
        names = Path(arguments.train).stem, arguments.train, arguments.test
        numbers = arguments.epochs, arguments.budget, arguments.description, arguments.limit
        settings = [experiments.LearnerSettings(*names, *numbers, arguments.kernel)]
    results = []
    for each in settings:
        train, test = each.read(folder)
        results += [experiments.certify_learner(kind, each, train, test, arguments.delta) for kind in arguments.learner]
    if arguments.json:
        print(json.dumps([result.to_dict() for result in results], indent=2))
    else:
        print(experiments.results_table(results))


if __name__ == "__main__":
    run_command(main)
