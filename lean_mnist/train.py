"""``python -m lean_mnist.train``: train a network, check its gradients while it trains, keep the best checkpoint."""

import sys
from datetime import timedelta

from lean_mnist.command_line import importing_pytorch, run_command
from lean_mnist.training.arguments import read_arguments


def main() -> None:
    """Read the command line, run, print the summary."""
    config, resume = read_arguments(sys.argv[1:])
    # After the command line, so that --help need not wait for PyTorch.
    with importing_pytorch():
        from lean_mnist.training.distributed import from_environment
        from lean_mnist.training.run import choose_device, run

    with from_environment(choose_device(config.device), timedelta(seconds=config.rank_timeout)) as world:
        summary = run(config, resume, world)
        if world.is_writer and config.json:
            print(summary.to_json())
        elif world.is_writer and not config.quiet:
            print(summary)


if __name__ == "__main__":
    run_command(main)
