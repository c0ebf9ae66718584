"""Sizes, products and directions of tensors, in float64, and whether two tensors hold the same numbers."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.subjects.arguments import is_dense, is_float


def in_dtype(inputs: Sequence[Any], dtype: torch.dtype | None) -> list[Any]:
    """Detached inputs, floating ones in ``dtype``; in their own if it is ``None``."""
    detached = [x.detach() if isinstance(x, Tensor) else x for x in inputs]
    if dtype is None:
        return detached
    return [x.to(dtype) if is_float(x) else x for x in detached]


def normal(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Gaussian numbers in float64, the same on every device."""
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64, device="cpu").to(device)


def root_mean_square(x: Tensor) -> float:
    """``√(mean x²)``; 1 for a tensor without size or without entries, so that it can serve as a scale."""
    if x.numel() == 0:
        return 1.0
    size = float(x.detach().double().square().mean().sqrt())
    return size if 0 < size < math.inf else 1.0


def random_direction(x: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian numbers of the shape and size of ``x``, in float64."""
    return root_mean_square(x) * normal(x.shape, generator, x.device)


def norm(x: Tensor) -> float:
    """The 2-norm, in float64."""
    return float(x.detach().double().norm())


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """``Σ ⟨aᵢ, bᵢ⟩``, in float64."""
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))


def nearly_same(found: Tensor, expected: Tensor, unit: float, least: float = 0.0) -> bool:
    """True if sums in another order, in numbers rounded to ``unit``, explain by how much two tensors differ.

    ``least`` is added to the size of ``expected``. Infinity and NaN are the same as themselves alone.
    """
    if found.shape != expected.shape:
        return False
    a, b = found.detach().double(), expected.detach().double()  # which has comparisons that 8 bits lack
    same = (a == b) | (a.isnan() & b.isnan())
    return norm(torch.where(same, 0, a - b)) <= 1e3 * unit * (norm(torch.where(b.isfinite(), b, 0)) + least)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """True if two tensors hold the same numbers; NaN is the same as NaN. Only dense ones are compared."""
    if not is_dense(a):
        return True
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
