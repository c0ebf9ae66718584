"""``python -m lean_mnist.pacbayes``: train a Gaussian over networks on a PAC-Bayes bound, and certify it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Literal

from lean_mnist.command_line import parse, run_command


@dataclass(frozen=True)
class PacBayesConfig:
    """Train a Gaussian over networks on a PAC-Bayes bound with hand-written gradients, and certify its risk.

    The weights of the certified network are drawn anew for every image. Options that are not given follow --prior.
    """

    prior: Literal["learnt", "data-free"] = "learnt"
    """Whether the prior's means are learned, on a part of the training examples that the bound then leaves out."""
    dataset: Literal["auto", "mnist", "fashion-mnist", "kmnist", "qmnist", "emnist-digits", "digits"] = "auto"
    """auto is mnist, or scikit-learn's digits where MNIST cannot be had."""
    data_dir: str = "data"
    """Searched after the folder that LEAN_MNIST_DATA names, and downloaded into."""
    hidden: tuple[int, ...] | None = None
    """Widths of the hidden layers: 600 600 for a learnt prior, 50 for a data-free one."""
    prior_scale: tuple[str, ...] | None = None
    """The prior's standard deviation, exact, as 0.01 or 1/64; of several each is tried, and all are paid for."""
    candidates: int | None = None
    """How many priors this one was chosen among with any regard to the bound's examples: 10, and 100 if data-free."""
    prior_examples: int | None = None
    """How many training examples a learnt prior learns from; half of them if not given."""
    prior_epochs: int = 40
    """Passes over the prior's part, by the plain risk; a data-free prior has none."""
    prior_lr: float = 0.1
    """Learning rate of these."""
    augment: bool = True
    """Whether a learnt prior learns from images deformed anew in every epoch (rotation, scale, elastic)."""
    epochs: int | None = None
    """Passes of the posterior over the bound's part: 5 from a learnt prior, 100 from a data-free one."""
    lr: float | None = None
    """Learning rate of these: 0.01 from a learnt prior, 0.5 from a data-free one."""
    batch_size: int = 250
    """Examples a batch."""
    objective: Literal["quadratic", "lambda", "classic"] = "quadratic"
    """The bound that the posterior lowers; the certified one is always PAC-Bayes-kl."""
    divergence_weight: float | None = None
    """Weight of KL in it: 1 from a learnt prior, 0.25 from a data-free one. The certified bound has weight 1."""
    p_min: float = 1e-5
    """Class probabilities below it count as it, which bounds the cross-entropy."""
    draws: int = 400_000
    """Pairs of a network and an example from which the empirical risk is estimated, rigorously."""
    delta: tuple[str, ...] = ("0.035", "1e-9")
    """Total failure probabilities, exact; each has a claim of its own."""
    check_every: int = 500
    """Steps between audits of the gradients; the first step of each training is always audited."""
    seed: int = 0
    """Of initial weights, split, order of examples and noise."""
    run_name: str | None = None
    """Name of the folder that is written; made of data set, prior and time if not given."""
    runs_dir: str = "runs"
    """Where it is written."""
    quiet: bool = False
    """Print nothing but errors."""
    json: bool = False
    """Print the summary as one JSON document."""


def main() -> None:
    """Read the command line, train, certify, print the summary or its document."""
    config = parse(PacBayesConfig, sys.argv[1:], prog="python -m lean_mnist.pacbayes")
    from lean_mnist.generalization.pacbayes.run import run  # after the command line, so that --help need not wait

    summary = run(config, lambda line: None if config.quiet else print(line, file=sys.stderr))
    if config.json:
        print(json.dumps(summary.values, indent=2))
    elif not config.quiet:
        print(summary)


if __name__ == "__main__":
    run_command(main)
