"""``python -m lean_mnist.crosscheck.replay BUNDLE``: ask the question of a repro bundle again.

A bundle is one that ``check_function``'s report saved, or one that a training run left in its folder when a check of
its gradients failed; the latter's step is computed again with the code now installed.

Exit status: 0 if everything passes, 3 if a gradient is wrong, 2 if the bundle or a function cannot be read.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from lean_mnist.command_line import parse, run_command


@dataclass(frozen=True)
class Options:
    """Replay a check, or the training step that failed one, from its repro bundle, and print what it says now."""

    bundle: Annotated[Path, tyro.conf.Positional]
    """the file that report.save_bundle wrote, or a run's failures/step-N.pt"""
    function: str = ""
    """module:name of the function, instead of the one in the bundle (say, a mended one)"""
    reference: str = ""
    """module:name of the reference, instead of the one in the bundle"""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(
        Options, sys.argv[1:] if arguments is None else arguments, prog="python -m lean_mnist.crosscheck.replay"
    )
    from lean_mnist.crosscheck.bundle import STEP, load_bundle
    from lean_mnist.errors import ArgumentError

    content = load_bundle(options.bundle)
    if content["kind"] != STEP:
        ok = _replay_function(options, content)
    elif options.function or options.reference:
        raise ArgumentError(f"--function, --reference: {options.bundle} is of a training step, which has neither")
    else:
        ok = _replay_step(options.bundle, content)
    if not ok:
        sys.stdout.flush()
        sys.exit(3)


def _replay_step(path: Path, content: dict[str, Any]) -> bool:
    from lean_mnist.audit.bundle import reproduce_step

    found = reproduce_step(path, content)
    print(f"recorded: {found.recorded}, with {_versions(content)}")
    print(found)
    return found.ok


def _versions(content: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in content["versions"].items())


def _replay_function(options: Options, content: dict[str, Any]) -> bool:
    from lean_mnist.crosscheck.bundle import resolve
    from lean_mnist.crosscheck.function_check import check_function
    from lean_mnist.errors import ArgumentError

    functions = {}
    for role in ("function", "reference"):
        path = getattr(options, role) or content[role]
        if path is None and (role == "function" or content.get("has_reference")):
            raise ArgumentError(f"{role}: the one that was checked has no importable name; give --{role} module:name")
        functions[role] = None if path is None else resolve(path, role)
    inputs = [
        x.requires_grad_() if needs_gradient else x
        for x, needs_gradient in zip(content["inputs"], content["requires_grad"], strict=True)
    ]
    function = functions["function"]
    assert function is not None
    print(f"recorded: {content['verdict']}, with {_versions(content)}")
    report = check_function(function, functions["reference"], inputs, seed=content["seed"], **content["options"])
    print(report)
    return report.ok


if __name__ == "__main__":
    run_command(main)
