"""Repro bundles: inputs, seeds and options of a failed check, in one file that ``torch.load`` reads safely.

There are two kinds: of a call of ``check_function``, written here, and of a training step (``lean_mnist.audit``). A
bundle names the function that was checked, for people; nothing is imported because a file names it.
"""

from __future__ import annotations

import io
import pickle
import platform
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.bundles.names import import_path
from lean_mnist.crosscheck.options import Options
from lean_mnist.crosscheck.subjects.arguments import Arguments, Inputs, is_float
from lean_mnist.errors import ArgumentError, CheckpointError
from lean_mnist.files import write_atomically
from lean_mnist.reading.text import printable
from lean_mnist.version import __version__

if TYPE_CHECKING:
    from lean_mnist.crosscheck.report import FunctionReport

FORMAT = "lean_mnist repro bundle"
FORMAT_VERSION = 1
_PLAIN = (type(None), bool, int, float, str, torch.dtype)
FUNCTION, STEP = "function", "training step"
_OPTIONS = {"names", *(option.name for option in fields(Options))}
_KEYS = {
    FUNCTION: ("function", "reference", "inputs", "requires_grad", "seed", "options", "verdict", "report", "versions"),
    STEP: (
        "step", "message", "architecture", "loss_options", "weights", "requires_grad", "gradients", "loss", "batches",
        "past", "computed", "seeds", "config", "versions",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """The arguments of ``check_function``: the functions, copies of the inputs, and the options."""

    function: Callable[..., Any]
    reference: Callable[..., Any] | None
    inputs: list[Any] | dict[str, Any]
    requires_grad: tuple[bool, ...]
    options: dict[str, Any]


def save_bundle(path: Path, report: FunctionReport, question: Question) -> None:
    """Write the bundle. Raises ``ArgumentError`` for an input that is neither a tensor nor a plain value."""
    arguments = Arguments.of(question.inputs)
    for name, x in zip(arguments.names, arguments.flat(question.inputs), strict=True):
        if not storable(x):
            raise ArgumentError(f"save_bundle: {name}: expected a tensor or a plain value, found {type(x).__name__}")
    smooth = question.options.get("derivative_of")
    content = {
        **envelope(FUNCTION),
        "function": import_path(question.function),
        "reference": None if question.reference is None else import_path(question.reference),
        "has_reference": question.reference is not None,
        "derivative_of": None if smooth is None else import_path(smooth),
        "has_derivative_of": smooth is not None,
        "inputs": question.inputs,
        "requires_grad": list(question.requires_grad),
        "seed": report.seed,
        "options": {name: value for name, value in question.options.items() if storable(value)},
        "verdict": "passed" if report.ok else "failed",
        "report": report.details(),
    }
    write_bundle(path, content)


def envelope(kind: str) -> dict[str, Any]:
    """The entries that every bundle begins with: its format and kind, and the versions that wrote it."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "versions": {
            "lean_mnist": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
    }


def write_bundle(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` to ``path``, whole or not at all; raises ``OSError`` if it cannot."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def load_bundle(path: Path) -> dict[str, Any]:
    """The content of a bundle of either ``kind``; raises ``CheckpointError`` if it is damaged or not one."""
    try:
        content = torch.load(path, map_location=None, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, AttributeError):
        raise CheckpointError(
            f"{path}: expected a repro bundle, found something that torch.load does not read"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected a repro bundle, found another torch.save file")
    if content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version")
        raise CheckpointError(f"{path}: expected a bundle of format version {FORMAT_VERSION}, found {found}")
    kind = content.setdefault("kind", FUNCTION)  # the first bundles were all of that kind and did not say so
    if kind not in _KEYS:
        raise CheckpointError(f"{path}: expected a bundle of a {' or a '.join(_KEYS)}, found one of {kind!r}")
    missing = [key for key in _KEYS[kind] if key not in content]
    if missing:
        raise CheckpointError(f"{path}: a damaged bundle, without {', '.join(missing)}")
    return content


def question_of(path: Path, content: dict[str, Any]) -> tuple[Inputs, dict[str, Any]]:
    """The inputs of a bundle of a function, and the options of ``check_function``, its seed included.

    Raises ``CheckpointError`` if they are no such things.
    """
    given, needs, options, seed = (content[key] for key in ("inputs", "requires_grad", "options", "seed"))
    if not isinstance(options, dict) or not isinstance(seed, int) or not set(options) <= _OPTIONS:
        raise CheckpointError(f"{path}: a damaged bundle: expected a seed and options of check_function")
    try:
        arguments = Arguments.of(given, options.get("names"))
    except (ArgumentError, TypeError) as error:
        raise CheckpointError(f"{path}: a damaged bundle: {error}") from None
    inputs, skip = arguments.flat(given), options.get("skip", [])
    if not isinstance(needs, list) or len(needs) != len(inputs) or not isinstance(skip, list):
        raise CheckpointError(f"{path}: a damaged bundle: expected lists of what needs a gradient and of rules to skip")
    if not all(is_float(x) for x, need in zip(inputs, needs, strict=True) if need):
        raise CheckpointError(f"{path}: a damaged bundle: expected floating inputs to be checked")
    inputs = [x.requires_grad_() if need else x for x, need in zip(inputs, needs, strict=True)]
    if options.get("names") is not None:
        options = {**options, "names": [printable(name) for name in options["names"]]}
    return arguments.nested(inputs), {**options, "seed": seed}


def storable(value: Any) -> bool:
    """True for tensors, plain values, and lists and dicts of these: what ``torch.load`` reads safely."""
    if isinstance(value, (list, tuple)):
        return all(storable(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, (str, int)) and storable(item) for key, item in value.items())
    return isinstance(value, (Tensor, *_PLAIN))
