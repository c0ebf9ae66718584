"""``python -m lean_mnist.pacbayes``: train a Gaussian over networks on a PAC-Bayes bound, and certify it."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lean_mnist.command_line import run_command
from lean_mnist.training.arguments import Origin, RunCommand
from lean_mnist.training.config.pac_bayes import PacBayesConfig

if TYPE_CHECKING:
    from lean_mnist.training.objectives.pac_bayes_result import PacBayesResult


@dataclass(frozen=True)
class Arguments(Origin, PacBayesConfig):
    """Train a Gaussian over networks on a PAC-Bayes bound with hand-written gradients, and certify its risk.

    The weights of the certified network are drawn anew for every image. Options that are not given follow --prior.
    """


def run(options: PacBayesConfig, resume: Path | None = None) -> "PacBayesResult":
    """Train and certify, from the start or from the checkpoint ``resume``; raises as ``training.run.run`` does."""
    # Not before the command line is read, so that --help need not wait for PyTorch.
    from lean_mnist.data.datasets import load_dataset
    from lean_mnist.training.objectives.pac_bayes import PacBayes
    from lean_mnist.training.objectives.pac_bayes_result import PacBayesResult
    from lean_mnist.training.run import threads, train

    with threads(options.threads):
        dataset = load_dataset(options.dataset, options.data_dir, download=resume is None)
        result = train(lambda: PacBayes(options, dataset), resume)
    assert isinstance(result, PacBayesResult)
    return result


def main() -> None:
    """Read the command line, train, certify, print the summary or its document."""
    command = RunCommand("python -m lean_mnist.pacbayes", PacBayesConfig, Arguments)
    options, resume = command.read(sys.argv[1:])
    result = run(options, resume)
    if options.json:
        print(json.dumps(result.to_dict(), indent=2))
    elif not options.quiet:
        print(result)


if __name__ == "__main__":
    run_command(main)
