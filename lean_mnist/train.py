"""``python -m lean_mnist.train``: train a network, check its gradients while it trains, keep the best checkpoint."""

import gc
import sys
from datetime import timedelta
from typing import Any

from lean_mnist.command_line import importing_pytorch, run_command
from lean_mnist.training.arguments import read_arguments


def main() -> None:
    """Read the command line, run, print the summary as soon as it is known."""
    config, resume = read_arguments(sys.argv[1:])
    # After the command line, so that --help need not wait for PyTorch.
    with importing_pytorch():
        from lean_mnist.training.distributed import from_environment
        from lean_mnist.training.run import choose_device, run

    unsaid: list[OSError] = []

    def tell(summary: Any) -> None:
        """Print it, or remember that nobody could be told, which is no reason to leave the run unfinished."""
        try:
            if config.json or not config.quiet:
                print(summary.to_json() if config.json else summary, flush=True)
        except OSError as error:
            unsaid.append(error)

    with from_environment(choose_device(config.device), timedelta(seconds=config.rank_timeout)) as world:
        run(config, resume, world, tell)
    gc.collect()  # a watched batch knows what makes it again: images that would be there while the process ends
    if unsaid:
        raise unsaid[0]


if __name__ == "__main__":
    run_command(main)
