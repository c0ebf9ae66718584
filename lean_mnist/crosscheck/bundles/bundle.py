"""Repro bundles: inputs, seeds and options of a failed check, in one file that ``torch.load`` reads safely.

They are of a call of ``check_function``, written here, or of a training step (``lean_mnist.audit``). Names of functions
in them are for people: nothing is imported because a file names it.
"""

import io
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor

from lean_mnist.crosscheck.bundles.names import import_path
from lean_mnist.crosscheck.subjects.arguments import Arguments, Inputs, is_dense, is_float
from lean_mnist.errors import ArgumentError, CheckpointError
from lean_mnist.files import write_atomically
from lean_mnist.reading.archive import read_archive
from lean_mnist.reading.schema import Amount, Count, Fields, checked
from lean_mnist.reading.text import printable, shown
from lean_mnist.version import __version__

if TYPE_CHECKING:
    from lean_mnist.crosscheck.report import FunctionReport

FORMAT = "lean_mnist repro bundle"
FORMAT_VERSION = 1
_PLAIN = (type(None), bool, int, float, str, torch.dtype)
FUNCTION, STEP = "function", "training step"
_MOST_CALLS = 1000
_Calls = Annotated[int, Meta(ge=1, le=_MOST_CALLS)]
_Above0 = Annotated[float, Meta(gt=0)]


class _Envelope(Fields, kw_only=True):
    format: str
    format_version: int
    kind: str
    versions: dict[str, str]


class _Options(Fields):
    """Those of ``check_function`` that can be written down."""

    names: list[str] | None = None
    probes: _Calls = 3
    replays: _Calls = 8
    vary_batch: bool | list[Count] = False
    vary_sizes: dict[str | int, int | list[int]] | None = None
    skip: list[str] = []  # noqa: RUF012
    fail_on: str = ""
    intended: str = ""
    derivative_of: None = None
    tolerance: Amount = 0.0
    gradients_from: str | None = None
    time_limit: _Above0 = 1.0
    max_memory: _Above0 = 1.0
    fast: bool = False
    upstream: list[list[Any]] = []  # noqa: RUF012


class _OfFunction(_Envelope, kw_only=True):
    function: str | None
    reference: str | None
    has_reference: bool = False
    derivative_of: str | None = None
    has_derivative_of: bool = False
    inputs: list[Any] | dict[str, Any]
    requires_grad: list[bool]
    seed: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
    options: _Options
    verdict: str
    report: str


class _OfStep(_Envelope, kw_only=True):
    """The fields that are read by ``lean_mnist.audit``, which checks them further."""

    step: Count
    message: str
    architecture: dict[str, Any]
    loss_options: dict[str, float]
    weights: dict[str, Any]
    requires_grad: dict[str, bool]
    gradients: dict[str, Any]
    loss: Any
    batches: list[dict[str, Any]]
    past: list[dict[str, Any]]
    computed: list[dict[str, Any]]
    seeds: dict[str, int]
    config: dict[str, Any]


@dataclass(frozen=True)
class Question:
    """The arguments of ``check_function``: the functions, copies of the inputs, and the options."""

    function: Callable[..., Any]
    reference: Callable[..., Any] | None
    inputs: list[Any] | dict[str, Any]
    requires_grad: tuple[bool, ...]
    options: dict[str, Any]


def save_bundle(path: Path, report: "FunctionReport", question: Question) -> None:
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
    """The content of a bundle of either ``kind``; raises ``CheckpointError``, naming the field, if it is not one."""
    where = shown(path)
    content = read_archive(path, "a repro bundle", CheckpointError, expanded=True)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{where}: expected a repro bundle, found another torch.save file")
    version = content.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise CheckpointError(
            f"{where}: expected a bundle of format version {FORMAT_VERSION}, found {printable(version, 20)}"
        )
    kind = content.setdefault("kind", FUNCTION)  # the first bundles were all of that kind and did not say so
    if kind not in (FUNCTION, STEP):
        found = printable(repr(kind), 60)
        raise CheckpointError(f"{where}: expected a bundle of a {FUNCTION} or a {STEP}, found one of {found}")
    fields: Any = _OfFunction if kind == FUNCTION else _OfStep
    checked(content, fields, f"{where}: a damaged bundle", "", CheckpointError)
    return content


def question_of(path: Path, content: dict[str, Any]) -> tuple[Inputs, dict[str, Any]]:
    """The inputs of a bundle of a function, and the options of ``check_function``, its seed included.

    Raises ``CheckpointError`` if they are no such things.
    """
    given, needs, options, seed = (content[key] for key in ("inputs", "requires_grad", "options", "seed"))
    here = f"{shown(path)}: a damaged bundle"
    if not all(v is None or isinstance(v, Tensor) for given in options.get("upstream", []) for v in given):
        raise CheckpointError(f"{here}: options.upstream: expected tensors or None")
    try:
        names = options.get("names")
        arguments = Arguments.of(given, None if names is None else [printable(name) for name in names])
    except ArgumentError as error:
        raise CheckpointError(f"{here}: {error}") from None
    if not all(name.isprintable() for name in arguments.names):
        raise CheckpointError(f"{here}: inputs: expected printable names")
    inputs = arguments.flat(given)
    if len(needs) != len(inputs):
        raise CheckpointError(f"{here}: requires_grad: expected {len(inputs)} values, one an input, found {len(needs)}")
    if not all(is_float(x) for x, need in zip(inputs, needs, strict=True) if need):
        raise CheckpointError(f"{here}: requires_grad: expected floating inputs to be checked")
    inputs = [x.requires_grad_() if need else x for x, need in zip(inputs, needs, strict=True)]
    if names is not None:
        options = {**options, "names": list(arguments.top)}
    return arguments.nested(inputs), {**options, "seed": seed}


def storable(value: Any) -> bool:
    """True for dense tensors, plain values, and lists and dicts of these: what ``load_bundle`` reads."""
    if isinstance(value, (list, tuple)):
        return all(storable(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, (str, int)) and storable(item) for key, item in value.items())
    return is_dense(value) if isinstance(value, Tensor) else isinstance(value, _PLAIN)
