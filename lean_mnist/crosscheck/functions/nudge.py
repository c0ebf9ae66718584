"""Moves of one unit of rounding at random."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.functions.calls import Subject, Upstream


def nudged(x: Tensor, generator: torch.Generator, unit: float | None = None) -> Tensor:
    """``x`` with every number moved up or down by one unit in its last place (or by twice ``unit``, relatively)."""
    sign = torch.randint(0, 2, x.shape, generator=generator).to(x.device) * 2 - 1
    eps = torch.finfo(x.dtype).eps if unit is None else 2 * unit
    moved = x + x * eps * sign.to(x.dtype)
    return torch.where(moved.isfinite(), moved, x)  # −inf, as masks are made of, would become NaN


def rounded_anew(subject: Subject, generator: torch.Generator, unit: float | None = None) -> list[Any]:
    """The inputs of ``subject``, those that are checked nudged."""
    inputs = list(subject.inputs)
    for i in subject.checked:
        inputs[i] = nudged(inputs[i].detach(), generator, unit)
    return inputs


def upstream_anew(upstream: Upstream, generator: torch.Generator) -> list[Tensor | None]:
    """Upstream gradients nudged: what a backward subtracts from each other rounds anew with them."""
    return [None if v is None else nudged(v, generator) for v in upstream]
