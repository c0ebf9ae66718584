"""``python -m lean_mnist.verify``: proofs of the formulas; ``--selftest`` tests the checks on planted bugs."""

import json
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
    """One id (loss.convex), one group (loss), or a pattern of ids ('loss.grad*'); with --selftest, their mutants."""
    coq: bool = False
    """Also compile the theorems of proofs/ with Coq, and say which obligations they state. Needs coqc on PATH."""
    selftest: bool = False
    """Instead, plant known bugs in our formulas, claims and backward, and in whole Functions: which are caught?"""
    target: str | None = None
    """With --selftest: plant in this Function instead, MODULE:FUNCTION; its module also names reference and inputs."""
    json: bool = False
    """Print one JSON document."""


def main() -> None:
    """Read the command line, check, print the table or its JSON."""
    arguments = parse(VerifyArguments, sys.argv[1:], prog="python -m lean_mnist.verify")
    if arguments.target is not None and not arguments.selftest:
        raise ConfigError("--target: it says where --selftest plants its bugs; expected --selftest beside it")
    if arguments.coq and arguments.selftest:
        raise ConfigError("--coq: it checks theorems; expected it without --selftest")
    if arguments.only is not None and arguments.target is not None:
        raise ConfigError("--only: it chooses obligations; expected it without --target")
    # What follows is imported after the command line, so that --help need not wait for PyTorch.
    if arguments.selftest:
        run_selftests(arguments)
        return
    from lean_mnist.verification import verify

    report = verify(arguments.only, progress=show_progress, coq=arguments.coq)
    print(report.to_json() if arguments.json else report.text(shutil.get_terminal_size((120, 24)).columns))
    report.raise_if_failed()


def run_selftests(arguments: VerifyArguments) -> None:
    """Plant what the arguments ask for, and print what found it."""
    if arguments.target is not None:
        from lean_mnist.mutants import for_target

        tested = for_target(arguments.target, progress=show_progress)
        print(tested.to_json() if arguments.json else tested)
        tested.raise_if_failed()
        return
    from lean_mnist.mutants.obligations import check_obligations

    of_obligations = check_obligations(arguments.only, progress=show_progress)
    if arguments.only is not None:
        print(json.dumps(of_obligations.as_plain(), indent=2) if arguments.json else of_obligations)
        of_obligations.raise_if_failed()
        return
    from lean_mnist.mutants import run_selftest

    tested = run_selftest(progress=show_progress)
    if arguments.json:
        print(tested.to_json(obligations=of_obligations.as_plain()))
    else:
        print(of_obligations, tested, sep="\n\n")
    of_obligations.raise_if_failed()
    tested.raise_if_failed()


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
