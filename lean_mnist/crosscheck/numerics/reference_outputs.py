"""Outputs and gradients of a reference in float64, and how far plain PyTorch is from them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.comparison import BASELINE_FACTOR, MAGNITUDE_ULPS, Divergence, compare
from lean_mnist.crosscheck.perturbation import DRAWS, Perturbing, perturbed_vjp
from lean_mnist.crosscheck.subjects.calls import CallFailed, Subject, Upstream
from lean_mnist.crosscheck.subjects.numbers import in_dtype, norm
from lean_mnist.errors import ArgumentError

# What rounds in float64 as it does in float32, rounds this much less.
_FLOAT64_OVER_FLOAT32 = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps

OTHER_NUMBERS = 0.05  # more than this share of a value is no rounding, in any precision

_Values = Callable[[Sequence[Any], "torch.dtype | None"], "list[Tensor]"]


@dataclass(frozen=True)
class ReferenceValues:
    """Float64 values beside a baseline: the same by plain PyTorch in the precision under test."""

    exact: list[Tensor]
    baseline: list[Tensor]
    redraw: Callable[[], list[Tensor]]  # computes the baseline again with ulp perturbations
    tolerance: float = 0.0  # the relative error allowed besides

    def compare(self, place: int, name: str, ours: Tensor, magnitude: float = 0.0) -> Divergence:
        """The divergence of ``ours`` from the ``place``-th value, with what the baseline's own error allows."""
        exact, baseline = self.exact[place], self.baseline[place]
        # Where both are infinite in the same way (a logarithm of a masked probability) there is nothing to compare.
        same = (ours == exact) & ours.isinf()
        if bool(same.any()):
            ours, exact, baseline = (torch.where(same, 0, x) for x in (ours, exact, baseline))
        divergence = compare(name, ours, exact, baseline.to(ours.dtype), magnitude)
        return replace(divergence, allowed=divergence.allowed + self.tolerance)

    def recheck(self, place: int, name: str, ours: Tensor) -> Divergence:
        """The divergence, rechecked with a wider tolerance where it does not pass.

        Where larger numbers cancel, the baseline's own error can be small by luck. So before a difference counts, the
        largest error of the perturbed baselines is allowed too.
        """
        divergence = self.compare(place, name, ours)
        if divergence.passed or not bool(ours.isfinite().all()):
            return divergence
        error = max(float((self.redraw()[place].double() - self.exact[place]).norm()) for _ in range(DRAWS))
        if not math.isfinite(error):
            return divergence
        unit = torch.finfo(ours.dtype).eps / 2
        return self.compare(place, name, ours, BASELINE_FACTOR * error / (MAGNITUDE_ULPS * unit))

    def allowed_norm(self, place: int, divergence: Divergence) -> float:
        """The 2-norm that ``divergence`` allows, rather than relative to the ``place``-th value."""
        scale = float(self.exact[place].double().norm())
        return divergence.allowed * (scale if scale > 0 else torch.finfo(torch.float64).tiny)


def reference_outputs(
    reference: Subject, dtypes: Sequence[torch.dtype], generator: torch.Generator, tolerance: float = 0.0
) -> ReferenceValues:
    """The outputs of ``reference``, for a check of outputs in ``dtypes``."""

    def outputs(inputs: Sequence[Any], dtype: torch.dtype | None) -> list[Tensor]:
        return [y.detach() for y in reference.call(inputs, dtype=dtype).outputs]

    def redraw() -> list[Tensor]:
        with Perturbing(generator):
            return outputs(reference.inputs, None)

    return ReferenceValues(*_values_and_baseline(outputs, reference, dtypes, redraw), redraw, tolerance)


def reference_gradients(
    reference: Subject,
    upstream: Upstream,
    generator: torch.Generator,
    dtype: torch.dtype | None = None,
    tolerance: float = 0.0,
) -> ReferenceValues:
    """The gradients of ``reference`` for ``upstream``, for a check of ones in ``dtype`` (the inputs' own)."""

    def gradients(inputs: Sequence[Any], computed_in: torch.dtype | None) -> list[Tensor]:
        return reference.vjp(upstream, inputs, dtype=computed_in)

    def redraw() -> list[Tensor]:
        given = [None if v is None else v.to(dtype or v.dtype) for v in upstream]
        return perturbed_vjp(reference, given, reference.inputs, generator, dtype)

    own = [reference.inputs[i].dtype if dtype is None else dtype for i in reference.checked]
    return ReferenceValues(*_values_and_baseline(gradients, reference, own, redraw), redraw, tolerance)


def _values_and_baseline(
    values: _Values, reference: Subject, dtypes: Sequence[torch.dtype], redraw: Callable[[], list[Tensor]]
) -> tuple[list[Tensor], list[Tensor]]:
    inputs = reference.inputs
    try:
        exact = values(inputs, torch.float64)
    except CallFailed as failure:
        raise ArgumentError(f"reference: expected a function that takes float64; its {failure}") from failure.error
    if all(dtype == torch.float64 for dtype in dtypes):
        return exact, _float64_baseline(values, inputs, exact)
    try:
        baseline = values(inputs, None)
    except CallFailed:  # not every operation has a kernel in every precision
        baseline = [x.to(dtype) for x, dtype in zip(exact, dtypes, strict=True)]
    if len(baseline) != len(exact):
        raise ArgumentError(f"reference: {len(exact)} outputs in float64, {len(baseline)} in its own precision")
    if reference.seed is not None and any(map(_other_numbers, exact, baseline)):
        return [x.double() for x in baseline], redraw()
    return exact, baseline


def _other_numbers(exact: Tensor, baseline: Tensor) -> bool:
    """True if random numbers drawn in float64 are others than those drawn in the precision of ``baseline``."""
    share = min(1e3 * torch.finfo(baseline.dtype).eps, OTHER_NUMBERS)
    return norm(exact - baseline.double()) > share * norm(exact)


def _float64_baseline(values: _Values, inputs: Sequence[Any], exact: list[Tensor]) -> list[Tensor]:
    """A baseline for float64 itself: the error that float32 makes, scaled down by the ratio of the units."""
    in32 = in_dtype(inputs, torch.float32)
    try:
        errors = [a.double() - b for a, b in zip(values(in32, None), values(in32, torch.float64), strict=True)]
    except (CallFailed, ValueError):
        return exact
    return [
        x + (error * _FLOAT64_OVER_FLOAT32).nan_to_num(nan=0, posinf=0, neginf=0)
        for x, error in zip(exact, errors, strict=True)
    ]
