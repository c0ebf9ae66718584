"""Monte Carlo arithmetic: the same computation with every rounding drawn anew, to see how much rounding matters.

Each operation's result is moved by at most one unit in the last place, at random (D. S. Parker, *Monte Carlo
Arithmetic*, UCLA, 1997; a rounding error proper is half of that). How far a final result then scatters says how far the
rounding errors of the computation as it is may have moved it, cancellation included, with no analysis of it and no
second implementation. What a kernel rounds inside is not seen, only what it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.calls import CallFailed, Subject, Upstream
from lean_mnist.torch_internals import DispatchMode, returns_a_view


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


class Jitter(DispatchMode):
    """While active, operations return new floating tensors moved by up to one unit in the last place."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if returns_a_view(func):
            return result  # a view, or written in place
        if isinstance(result, Tensor):
            return self._moved(result)
        if isinstance(result, (tuple, list)):
            return type(result)(self._moved(x) if isinstance(x, Tensor) else x for x in result)
        return result

    def _moved(self, x: Tensor) -> Tensor:
        return nudged(x, self._generator) if x.is_floating_point() and x.numel() else x


def jittered_vjp(
    subject: Subject,
    upstream: Upstream,
    inputs: Sequence[Any],
    generator: torch.Generator,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """The gradients of ``subject``, inputs as given, with upstream gradients and every operation's result jittered."""
    moved = upstream_anew(upstream, generator)
    try:
        with Jitter(generator):
            return subject.vjp(moved, inputs, dtype=dtype)
    except (CallFailed, RuntimeError):  # something in it does not run under a dispatch mode
        return subject.vjp(moved, inputs, dtype=dtype)
