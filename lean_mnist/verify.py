"""``python -m lean_mnist.verify``: every statement LEAN_mnist makes, checked of this project's own code."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass

from lean_mnist.command_line import parse, run_command


# Another kind of verification (of planted bugs, of somebody else's Function) joins as a field here and a line in main.
@dataclass(frozen=True)
class VerifyArguments:
    """Check every obligation: prove it where it can be proved, else check it, and say which. Needs SymPy."""

    only: str | None = None
    """One id (loss.convex), one group (loss), or a pattern of ids ('loss.grad*')."""
    json: bool = False
    """Print one JSON document."""


def main() -> None:
    """Read the command line, check, print the table or its JSON."""
    arguments = parse(VerifyArguments, sys.argv[1:], prog="python -m lean_mnist.verify")
    from lean_mnist.crosscheck.obligations import verify  # after the command line: --help need not wait for PyTorch

    report = verify(arguments.only, progress=show_progress)
    print(report.to_json() if arguments.json else report.text(shutil.get_terminal_size((120, 24)).columns))
    report.raise_if_failed()


def show_progress(done: int, total: int, following: str) -> None:
    """Say on standard error which obligation is being checked: one line that changes, or a line each in a file."""
    if sys.stderr.isatty():
        line = f"{done} of {total} checked{f', now {following}' if following else ''}"
        sys.stderr.write(f"\r{line:<79}" + ("" if following else "\r" + " " * 79 + "\r"))
    elif following:
        sys.stderr.write(f"{done + 1} of {total}: {following}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    run_command(main)
