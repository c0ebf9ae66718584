"""``python -m lean_mnist.report RUN``: one HTML page about a run, which needs no other file and no network."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lean_mnist.command_line import POSITIONAL, parse, run_command
from lean_mnist.reading.text import shown


@dataclass(frozen=True)
class ReportArguments:
    """Write a page about a run: what was trained, curves, checks, errors, certificate, how to do it again."""

    run: Annotated[str, POSITIONAL]
    """The run's name, or its folder."""
    out: str | None = None
    """Write this file; report.html in the run's folder if not given."""
    checkpoint: str | None = None
    """Its best.pt, or the folder with it; the one in checkpoints beside runs if not given."""
    runs_dir: str = "runs"
    """Where runs are looked for by name."""
    data_dir: str | None = None
    """Searched for the test images, after the folder that LEAN_MNIST_DATA names; the run's if not given."""


def main() -> None:
    """Read the command line, write the page, say where it is and what is missing in it."""
    arguments = parse(ReportArguments, sys.argv[1:], prog="python -m lean_mnist.report")
    from lean_mnist.training.config.places import checkpoint_path
    from lean_mnist.training.evaluation.run_list import find_run
    from lean_mnist.training.report.page import write_page

    folder = Path(find_run(arguments.run, arguments.runs_dir).folder)
    out = None if arguments.out is None else Path(arguments.out)
    checkpoint = None if arguments.checkpoint is None else checkpoint_path(arguments.checkpoint)
    path, missing = write_page(folder, checkpoint=checkpoint, data_dir=arguments.data_dir, out=out)
    for line in missing:
        print(line, file=sys.stderr)
    print(f"written {shown(path)}")


if __name__ == "__main__":
    run_command(main)
