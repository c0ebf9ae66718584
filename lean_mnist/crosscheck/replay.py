"""``python -m lean_mnist.crosscheck.replay BUNDLE``: run a failed check again from its bundle.

A bundle is one that ``check_function``'s report saved, to be asked of ``--function module:name``, or one that a run
left when a check failed, whose step is computed again. Nothing that a bundle names is imported or called.

Exit status: 0 if everything passes, 3 if a gradient is wrong, 2 if the bundle or a function cannot be read.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from lean_mnist.command_line import POSITIONAL, parse, run_command
from lean_mnist.errors import ArgumentError
from lean_mnist.reading.text import printable


@dataclass(frozen=True)
class Options:
    """Replay a check, or the training step that failed one, from its repro bundle, and print what it says now."""

    bundle: Annotated[Path, POSITIONAL]
    """the file that report.save_bundle wrote, or a run's failures/step-N.pt"""
    function: str = ""
    """module:name of the function to check; without it nothing is called (a training step has none)"""
    reference: str = ""
    """module:name of a reference in plain PyTorch to compare it with; without it there is no comparison"""
    derivative_of: str = ""
    """module:name of the function whose derivative the gradient is meant to be, where the check had one"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Replay the bundle that the command line names; raises ``SystemExit(3)`` if a gradient is wrong."""
    options = parse(
        Options, sys.argv[1:] if arguments is None else arguments, prog="python -m lean_mnist.crosscheck.replay"
    )
    # After the command line, so that --help need not wait for PyTorch.
    from lean_mnist.crosscheck.bundles.bundle import STEP, load_bundle

    content = load_bundle(options.bundle)
    if content["kind"] != STEP:
        ok = _replay_function(options, content)
    elif options.function or options.reference or options.derivative_of:
        names = "--function, --reference, --derivative-of"
        raise ArgumentError(f"{names}: {options.bundle} is of a training step, which has none")
    else:
        ok = _replay_step(options.bundle, content)
    if not ok:
        sys.stdout.flush()
        sys.exit(3)


def _replay_step(path: Path, content: dict[str, Any]) -> bool:
    from lean_mnist.audit.bundle import reproduce_step  # of which nothing is needed for a function

    found = reproduce_step(path, content)
    _print_recorded(found.recorded, content)
    print(found)
    return found.ok


def _print_recorded(verdict: str, content: dict[str, Any]) -> None:
    versions = content["versions"] if isinstance(content["versions"], dict) else {}
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(printable(f"recorded: {verdict}, with {said}", 1000))


def _replay_function(options: Options, content: dict[str, Any]) -> bool:
    from lean_mnist.crosscheck.bundles.bundle import question_of
    from lean_mnist.crosscheck.bundles.names import resolve
    from lean_mnist.crosscheck.function_check import check_function

    if not options.function:
        raise ArgumentError(
            f"{options.bundle} says that it is of "
            f"{printable(content['function'] or 'a function without an importable name')}; nothing is imported or "
            "called because a file names it: name the function yourself, --function module:name"
        )
    inputs, asked = question_of(options.bundle, content)
    function = resolve(options.function, "--function")
    reference = resolve(options.reference, "--reference") if options.reference else None
    _print_recorded(content["verdict"], content)
    if reference is None and content.get("has_reference", content["reference"] is not None):
        named = printable(content["reference"] or "one without an importable name")
        print(f"without its reference, {named}: give --reference module:name to compare with one")
    if options.derivative_of:
        asked["derivative_of"] = resolve(options.derivative_of, "--derivative-of")
    elif content.get("has_derivative_of"):
        named = printable(content["derivative_of"] or "one without an importable name")
        print(f"without the function whose derivative it is meant to be, {named}: give --derivative-of module:name")
    report = check_function(function, reference, inputs, **asked)
    print(report.details())
    return report.ok


if __name__ == "__main__":
    run_command(main)
