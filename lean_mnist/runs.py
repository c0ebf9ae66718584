"""``python -m lean_mnist.runs``: the runs in a folder with their figures; two of them side by side."""

import json
import sys
from dataclasses import dataclass
from typing import Annotated

from lean_mnist.command_line import POSITIONAL, parse, run_command


@dataclass(frozen=True)
class RunsArguments:
    """List the runs, oldest first, with test accuracy, certified risk, checks and time of training.

    Of one run its options, too; of two what differs, side by side.
    """

    run: Annotated[str | None, POSITIONAL] = None
    """Name or folder of a run."""
    other: Annotated[str | None, POSITIONAL] = None
    """Another, to compare it with."""
    runs_dir: str = "runs"
    """Where the folders of the runs are."""
    json: bool = False
    """Print one JSON document."""


def main() -> None:
    """Read the command line, read the runs' files, print the table, the comparison or the document."""
    arguments = parse(RunsArguments, sys.argv[1:], prog="python -m lean_mnist.runs")
    from lean_mnist.files import plain
    from lean_mnist.training.evaluation import run_list

    named = [which for which in (arguments.run, arguments.other) if which is not None]
    runs = [run_list.find_run(which, arguments.runs_dir) for which in named] or run_list.find_runs(arguments.runs_dir)
    if arguments.json:
        document = {"runs": runs, **({"differing": run_list.differing(runs)} if len(named) > 1 else {})}
        print(json.dumps(plain(document), indent=2, allow_nan=False))
    elif named:
        print(run_list.side_by_side(runs))
    elif runs:
        print(run_list.table(runs))
    else:
        print(f"no runs in {arguments.runs_dir} yet")


if __name__ == "__main__":
    run_command(main)
