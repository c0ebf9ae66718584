"""``python -m lean_mnist.train``: train a network, check its gradients while it trains, keep the best checkpoint."""

from __future__ import annotations

import sys

from lean_mnist.command_line import run_command
from lean_mnist.training.arguments import read_arguments


def main() -> None:
    """Read the command line, run, print the summary."""
    config, resume = read_arguments(sys.argv[1:])
    from lean_mnist.training.run import run  # after the command line, so that --help need not wait for PyTorch

    summary = run(config, resume)
    if not config.quiet:
        print(summary)


if __name__ == "__main__":
    run_command(main)
