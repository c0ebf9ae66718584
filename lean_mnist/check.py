"""``python -m lean_mnist.check``: is the backward of a Function the derivative of its forward? Text, JSON, JUnit XML.

Exit status: 0 if everything passes, 3 if a gradient is wrong or nothing could tell, 2 if the question makes no sense.
"""

import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from lean_mnist.command_line import OR_NONE, POSITIONAL, parse, refuse, run_command
from lean_mnist.errors import ConfigError
from lean_mnist.files import write_atomically
from lean_mnist.invocation import typed

if TYPE_CHECKING:
    from lean_mnist.crosscheck.cases.table import Case

DEFAULT_SIZES = (1, 2, 3, 7, 8, 9, 17, 35)  # around powers of two


@dataclass(frozen=True)
class CheckArguments:
    """Check the gradients of an autograd.Function, or of any function in PyTorch, at the inputs that are described.

    For example: python -m lean_mnist.check my_package.kernels:RMSNorm --inputs "randn(4,8,req) randn(8,req) 1e-6"
    """

    subject: Annotated[str, POSITIONAL]
    """module:name or path/to/file.py:name of the Function, function or nn.Module; or a bundle, or a folder of them"""
    function: Annotated[str | None, POSITIONAL] = None
    """after a bundle: module:name of the function to ask it of"""
    inputs: str = ""
    """the arguments, made by randn, rand, zeros, ones, randint, arange: "x=randn(4,8,req) randint(0,8,(4,)) 1e-5\""""
    reference: str | None = None
    """module:name of the same in plain PyTorch, such as torch:square; of a module, f(module, *inputs) or a module"""
    derivative_of: str | None = None
    """module:name of the function whose derivative the gradient is meant to be (surrogate gradients)"""
    intended: str = ""
    """a word, such as surrogate, for why the gradient is meant not to be the derivative; it is not compared then"""
    sizes: Annotated[tuple[int, ...] | None, OR_NONE] = None
    """other lengths of dimension 0 of the inputs that share it; without numbers 1 2 3 7 8 9 17 35"""
    dtypes: tuple[Literal["float64", "float32", "bfloat16", "float16"], ...] = ()
    """dtypes of the floating inputs that name none of their own"""
    layouts: tuple[Literal["contiguous", "transposed"], ...] = ()
    """memory layouts of the inputs"""
    device: str = "cpu"
    """where the inputs are made, such as cuda"""
    skip: tuple[str, ...] = ()
    """rules that are not asked; docs/failed_rules.md lists them"""
    fail_on: Literal["error", "warning", "note"] = "error"
    """the least weight of a failure that counts"""
    tolerance: float = 0.0
    """a relative error that gradients may have beside rounding, as of iterative solvers"""
    seed: int | None = None
    """of the inputs and of all that is random; a fresh one if not given"""
    json: Path | None = None
    """also write one JSON document to this file"""
    junit: Path | None = None
    """also write JUnit XML to this file"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Check what the command line names, print the table or the report; raises ``SystemExit(3)`` unless it passes."""
    asked = parse(CheckArguments, sys.argv[1:] if arguments is None else arguments, prog="python -m lean_mnist.check")
    # What follows is imported after the command line, so that --help need not wait for PyTorch.
    from lean_mnist.crosscheck.bundles.names import resolve
    from lean_mnist.crosscheck.cases.table import check_cases, junit_xml

    for option, file in (("--json", asked.json), ("--junit", asked.junit)):
        if file is not None and not file.parent.is_dir():
            raise ConfigError(f"{option}: {file.parent}: no such folder")
    path = Path(asked.subject)
    is_bundle = path.suffix == ".pt" or path.is_dir()
    name = asked.function if is_bundle else asked.subject
    if is_bundle and name is None:
        expected = "the function to ask it of behind it, as module:name; none is called unnamed"
        raise ConfigError(f"{path}: expected {expected}")
    if not is_bundle and asked.function is not None:
        raise ConfigError(f"{asked.function!r}: unexpected argument; only a bundle (.pt) is followed by a function")
    assert name is not None
    function = resolve(name, "function")
    reference = None if asked.reference is None else resolve(asked.reference, "--reference")
    options: dict[str, Any] = {"fail_on": asked.fail_on, "tolerance": asked.tolerance, "intended": asked.intended}
    options["skip"] = list(asked.skip)
    if asked.derivative_of is not None:
        options["derivative_of"] = resolve(asked.derivative_of, "--derivative-of")
    if is_bundle:
        cases = _bundles(asked, path, function, {name: value for name, value in options.items() if value})
    else:
        cases = _cases(asked, {**options, "seed": secrets.randbits(48) if asked.seed is None else asked.seed})
    table = check_cases(name, function, reference, cases)
    print(table)
    if asked.json is not None:
        write_atomically(asked.json, f"{table.to_json()}\n".encode())
    if asked.junit is not None:
        write_atomically(asked.junit, junit_xml(name, table.reports).encode())
    if not table.ok:
        sys.stdout.flush()
        sys.exit(3)


def _bundles(asked: CheckArguments, path: Path, function: Any, given: dict[str, Any]) -> "list[Case]":
    """The case of one bundle, or of each of a folder that is of ``function``; options that are given come first."""
    from lean_mnist.crosscheck.bundles.bundle import FUNCTION, load_bundle, question_of
    from lean_mnist.crosscheck.bundles.names import import_path
    from lean_mnist.crosscheck.cases.table import Case
    from lean_mnist.reading.text import printable

    refuse(asked, ("inputs", "sizes", "dtypes", "layouts", "device"), f"{path} has inputs of its own")
    if given["fail_on"] == "error":  # the default
        del given["fail_on"]
    if asked.seed is not None:
        given["seed"] = asked.seed
    files = sorted(path.glob("*.pt")) if path.is_dir() else [path]
    contents = {file: load_bundle(file) for file in files}
    own = str(import_path(function)).rpartition(":")[2]
    cases = []
    for file, content in contents.items():
        of = printable(content.get("function") or "a function without an importable name")
        if content["kind"] != FUNCTION:
            again = typed("python -m lean_mnist.crosscheck.replay", file)
            raise ConfigError(f"{file}: a bundle of a {content['kind']}; {again} runs it")
        if path.is_dir() and of.rpartition(":")[2] != own:
            continue
        inputs, options = question_of(file, content)
        cases.append(Case({"bundle": file.name} if path.is_dir() else {}, inputs, {**options, **given}))
    if not cases:
        raise ConfigError(f"{path}: expected bundles of {own}, found {len(contents)} of other functions")
    return cases


def _cases(asked: CheckArguments, options: dict[str, Any]) -> "list[Case]":
    from lean_mnist.crosscheck.cases.language import parse_inputs
    from lean_mnist.crosscheck.cases.table import cases_of

    if not asked.inputs:
        raise ConfigError('--inputs: expected the arguments to check it at, such as "randn(4,8,req)", found none')
    for size in asked.sizes or ():
        if size < 0:
            raise ConfigError(f"--sizes: expected numbers of at least 0, found {size}")
    sizes = () if asked.sizes is None else asked.sizes or DEFAULT_SIZES
    return cases_of(
        parse_inputs(asked.inputs), sizes=sizes, dtypes=asked.dtypes, layouts=asked.layouts, device=asked.device,
        options=options,
    )  # fmt: skip


if __name__ == "__main__":
    run_command(main)
