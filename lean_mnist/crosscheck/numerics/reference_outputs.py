"""What a reference says the outputs and gradients are, in float64, and how far plain PyTorch is from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.calls import CallFailed, Subject, Upstream
from lean_mnist.crosscheck.comparison import BASELINE_FACTOR, MAGNITUDE_ULPS, Divergence, compare
from lean_mnist.crosscheck.numerics.perturbation import Jitter, jittered_vjp
from lean_mnist.errors import ArgumentError

JITTERS = 3
# What rounds in float64 as it does in float32, rounds this much less.
_FLOAT64_OVER_FLOAT32 = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Answer:
    """Float64 values beside a baseline: the same by plain PyTorch in the precision under test."""

    exact: list[Tensor]
    baseline: list[Tensor]

    def compare(self, place: int, name: str, ours: Tensor, magnitude: float = 0.0) -> Divergence:
        exact, baseline = self.exact[place], self.baseline[place]
        # Where both are infinite in the same way (a logarithm of a masked probability) there is nothing to compare.
        same = (ours == exact) & ours.isinf()
        if bool(same.any()):
            ours, exact, baseline = (torch.where(same, 0, x) for x in (ours, exact, baseline))
        return compare(name, ours, exact, baseline.to(ours.dtype), magnitude)


def settled(answer: Answer, place: int, name: str, ours: Tensor, jittered: Callable[[], list[Tensor]]) -> Divergence:
    """The divergence, with all that rounding explains.

    Where larger numbers cancel, the baseline's own error can be small by luck. So before a difference counts, the
    reference is computed with its rounding drawn anew (``jittered``), and the largest error of those is allowed too.
    """
    divergence = answer.compare(place, name, ours)
    if divergence.passed or not bool(ours.isfinite().all()):
        return divergence
    exact = answer.exact[place]
    error = max(float((jittered()[place].double() - exact).norm()) for _ in range(JITTERS))
    if not math.isfinite(error):
        return divergence
    unit = torch.finfo(ours.dtype).eps / 2
    return answer.compare(place, name, ours, BASELINE_FACTOR * error / (MAGNITUDE_ULPS * unit))


def settled_gradient(
    answer: Answer,
    place: int,
    name: str,
    ours: Tensor,
    reference: Subject,
    upstream: Upstream,
    generator: torch.Generator,
    dtype: torch.dtype | None = None,
) -> Divergence:
    """``settled`` for the gradient of a checked input, at the inputs of ``reference``."""

    def jittered() -> list[Tensor]:
        given = [None if v is None else v.to(dtype or v.dtype) for v in upstream]
        return jittered_vjp(reference, given, reference.inputs, generator, dtype)

    return settled(answer, place, name, ours, jittered)


def settled_output(
    answer: Answer, place: int, name: str, ours: Tensor, reference: Subject, generator: torch.Generator
) -> Divergence:
    """``settled`` for an output."""

    def jittered() -> list[Tensor]:
        with Jitter(generator):
            return [y.detach() for y in reference.call().outputs]

    return settled(answer, place, name, ours, jittered)


def allowed_norm(divergence: Divergence, exact: Tensor) -> float:
    """What a divergence allows, as a 2-norm rather than relative to the reference."""
    scale = float(exact.double().norm())
    return divergence.allowed * (scale if scale > 0 else torch.finfo(torch.float64).tiny)


def reference_outputs(reference: Subject, dtypes: Sequence[torch.dtype], inputs: Sequence[Any] | None = None) -> Answer:
    """The outputs of ``reference``, whose inputs are in the precision under test."""

    def outputs(of: Sequence[Any] | None, dtype: torch.dtype | None) -> list[Tensor]:
        return [y.detach() for y in reference.call(of, dtype=dtype).outputs]

    return _answer(reference, outputs, inputs, dtypes)


def reference_gradients(
    reference: Subject, upstream: Upstream, inputs: Sequence[Any] | None = None, dtype: torch.dtype | None = None
) -> Answer:
    """The gradients of ``reference`` for ``upstream``, as a check of ones in ``dtype`` (the inputs' own) wants them."""

    def gradients(of: Sequence[Any] | None, dtype: torch.dtype | None) -> list[Tensor]:
        return reference.vjp([None if v is None else v.to(dtype or v.dtype) for v in upstream], of, dtype=dtype)

    given = reference.inputs if inputs is None else inputs
    own = [given[i].dtype if dtype is None else dtype for i in reference.checked]
    return _answer(reference, gradients, given, own)


def _answer(reference: Subject, values: Any, inputs: Sequence[Any] | None, dtypes: Sequence[torch.dtype]) -> Answer:
    given = list(reference.inputs if inputs is None else inputs)
    try:
        exact = values(given, torch.float64)
    except CallFailed as failure:
        raise ArgumentError(f"reference: expected a function that takes float64; its {failure}") from failure.error
    if all(dtype == torch.float64 for dtype in dtypes):
        return Answer(exact, _float64_baseline(values, given, exact))
    try:
        baseline = values(given, None)
    except CallFailed:  # not every operation has a kernel in every precision
        baseline = [x.to(dtype) for x, dtype in zip(exact, dtypes, strict=True)]
    if len(baseline) != len(exact):
        raise ArgumentError(f"reference: {len(exact)} outputs in float64, {len(baseline)} in its own precision")
    return Answer(exact, baseline)


def _float64_baseline(values: Any, inputs: list[Any], exact: list[Tensor]) -> list[Tensor]:
    """Where float64 is itself under test: the error that float32 makes, scaled down by the ratio of the units."""
    in32 = [x.detach().float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]
    in32 = [
        x.requires_grad_(y.requires_grad) if isinstance(x, Tensor) else x for x, y in zip(in32, inputs, strict=True)
    ]
    try:
        errors = [a.double() - b for a, b in zip(values(in32, None), values(in32, torch.float64), strict=True)]
    except (CallFailed, ValueError):
        return exact
    return [
        x + (error * _FLOAT64_OVER_FLOAT32).nan_to_num(nan=0, posinf=0, neginf=0)
        for x, error in zip(exact, errors, strict=True)
    ]
