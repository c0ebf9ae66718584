"""``check_compiled``: the same model eager and by ``torch.compile``, outputs and gradients compared."""

import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lean_mnist.crosscheck.executions.steps import Expected, Model, Step, copied, worst
from lean_mnist.crosscheck.options import require_tolerance, seed_from, severity_named
from lean_mnist.crosscheck.report import Finding, FunctionReport, Severity, failed
from lean_mnist.crosscheck.subjects.arguments import Inputs
from lean_mnist.crosscheck.subjects.calls import generators_put_back, one_line
from lean_mnist.errors import ArgumentError, require_count
from lean_mnist.torch_internals import compiling_often, counting, uncompiled, uncompiled_calls

COMPILED = "compiled"


def check_compiled(
    model: Model,
    inputs: Inputs,
    *,
    backend: str | Callable[..., Any] | None = None,
    seed: int | None = None,
    probes: int = 3,
    fail_on: str = "error",
    tolerance: float = 0.0,
    dynamic: bool | None = None,
    fullgraph: bool = False,
    options: Mapping[str, Any] | None = None,
) -> FunctionReport:
    """Compare outputs, gradients and buffers of ``model`` under ``torch.compile`` with those that it has without.

    For random upstream gradients both are held against the eager model in float64 (in its own precision where it draws
    random numbers or does not take float64), and may be as far from it as the eager one's own rounding explains.

    Args:
        model: a module, of which copies are made, or a function; compiled or not.
        inputs: its arguments, a list or a mapping of keywords.
        backend: of ``torch.compile``; by default ``"inductor"`` where there is a C++ compiler or a GPU, else
            ``"aot_eager"``.
        dynamic, fullgraph: as of ``torch.compile``; so are ``options``, for ``"inductor"`` alone.

    The report is ``INCONCLUSIVE`` where nothing was compiled. Raises ``ArgumentError`` if the model does not run eager.
    """
    require_count(probes=probes)
    severity, seed = severity_named(fail_on), seed_from(seed)
    require_tolerance(tolerance)
    step = Step.at(inputs, seed)
    on_gpu = any(isinstance(x, torch.Tensor) and x.is_cuda for x in step.inputs)
    backend = backend or ("inductor" if on_gpu or shutil.which(os.environ.get("CXX", "g++")) else "aot_eager")
    patches = {"fallback_random": True, **(options or {})}  # the random numbers of eager code
    try:
        compiler, graphs = counting(backend, **({"config_patches": patches} if backend == "inductor" else {}))
    except Exception as error:
        raise ArgumentError(f"backend: expected one of torch.compile; {one_line(error)}") from error
    model = uncompiled(model)
    findings: list[Finding] = []
    with generators_put_back(), compiling_often():
        for probe in range(probes):
            there = replace(step, seed=(seed + probe) % 2**63)
            try:
                with uncompiled_calls():
                    expected = Expected.of(model, there, (COMPILED, "eager"), tolerance)
            except ArgumentError:
                raise
            except Exception as error:
                raise ArgumentError(f"model: eager it raised {type(error).__name__}: {one_line(error)}") from error
            twin = copied(model)
            inner = twin if isinstance(twin, nn.Module) else None
            compiled = torch.compile(twin, backend=compiler, dynamic=dynamic, fullgraph=fullgraph)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the compiler's own, which are no failure of the model
                    found = there.of(compiled, module=inner)
            except Exception as error:
                text = f"compiled, it raised {type(error).__name__}: {one_line(error)}"
                findings.append(failed(text, rule=COMPILED, severity=Severity.ERROR))
                break
            with uncompiled_calls():  # a check may compute again
                findings += expected.findings(found)
    named = backend if isinstance(backend, str) else getattr(backend, "__name__", "a backend of your own")
    note = (
        f"{len(graphs)} graphs compiled by {named}" if graphs else "nothing was compiled: torch.compile ran eager code"
    )
    judged = {"the model": (COMPILED,) if graphs else ()}
    return FunctionReport(tuple(worst(findings)), seed, note, severity, judged_by=judged, oracles=(COMPILED,))
