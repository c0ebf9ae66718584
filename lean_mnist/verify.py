"""``python -m lean_mnist.verify``: proofs of the formulas; ``--selftest`` tests the checks on planted bugs."""

import shutil
import sys
from dataclasses import dataclass

from lean_mnist.command_line import parse, run_command
from lean_mnist.errors import ConfigError


@dataclass(frozen=True)
class VerifyArguments:
    """Check every obligation: prove it where it can be proved, else check it, and say which. Needs SymPy.

    With --selftest, show that the checks can fail: plant known bugs in the backward pass, and see each refused.
    """

    only: str | None = None
    """One id (loss.convex), one group (loss), or a pattern of ids ('loss.grad*')."""
    selftest: bool = False
    """Instead, plant known bugs in our own backward and in whole Functions, and report which the checks catch."""
    target: str | None = None
    """With --selftest: plant in this Function instead, MODULE:FUNCTION; its module also names reference and inputs."""
    json: bool = False
    """Print one JSON document."""


def main() -> None:
    """Read the command line, check, print the table or its JSON."""
    arguments = parse(VerifyArguments, sys.argv[1:], prog="python -m lean_mnist.verify")
    if arguments.target is not None and not arguments.selftest:
        raise ConfigError("--target: it says where --selftest plants its bugs; expected --selftest beside it")
    if arguments.only is not None and arguments.selftest:
        raise ConfigError("--only: it chooses obligations; expected it without --selftest")
    # What follows is imported after the command line, so that --help need not wait for PyTorch.
    if arguments.selftest:
        from lean_mnist.mutants import for_target, run_selftest

        if arguments.target is None:
            tested = run_selftest(progress=show_progress)
        else:
            tested = for_target(arguments.target, progress=show_progress)
        print(tested.to_json() if arguments.json else tested)
        tested.raise_if_failed()
        return
    from lean_mnist.verification import verify

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
