"""Monte Carlo arithmetic: the same computation with ulp perturbations, to see how much rounding matters.

Each operation's result is moved by at most one unit in the last place, at random (D. S. Parker, *Monte Carlo
Arithmetic*, UCLA, 1997; a rounding error proper is half of that). How far a result then scatters says how far rounding
may have moved it, cancellation included. What a kernel rounds inside is not seen, only what it returns.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor

from lean_mnist.crosscheck.subjects.calls import CallFailed, Subject, Upstream
from lean_mnist.torch_internals import DispatchMode, has_no_memory, operation_name, returns_a_view, uncompiled_calls

DRAWS = 3  # how often a computation is perturbed to see how far it scatters
Result = TypeVar("Result")


def perturbed(x: Tensor, generator: torch.Generator, unit: float | None = None) -> Tensor:
    """``x`` with every number moved up or down by one unit in its last place (or by twice ``unit``, relatively)."""
    sign = torch.randint(0, 2, x.shape, generator=generator, device="cpu").to(x.device) * 2 - 1
    eps = torch.finfo(x.dtype).eps if unit is None else 2 * unit
    moved = x + x * eps * sign.to(x.dtype)
    return torch.where(moved.isfinite(), moved, x)  # −inf, as masks are made of, would become NaN


def perturbed_inputs(subject: Subject, generator: torch.Generator, unit: float | None = None) -> list[Any]:
    """The inputs of ``subject``, those that are checked perturbed."""
    inputs = list(subject.inputs)
    for i in subject.checked:
        inputs[i] = perturbed(inputs[i].detach(), generator, unit)
    return inputs


# What only selects, copies or compares numbers, or gives whole ones.
EXACT = {
    "abs", "amax", "amin", "arange", "cat", "ceil", "clamp", "clamp_max", "clamp_min", "clone",
    "constant_pad_nd", "copy", "embedding", "eye", "fill", "flip", "floor", "full", "gather", "index",
    "index_select", "masked_fill", "masked_scatter", "max", "maximum", "min", "minimum", "neg", "ones", "relu",
    "repeat", "roll", "round", "scatter", "sign", "sort", "stack", "threshold_backward", "topk", "tril",
    "triu", "trunc", "where", "zeros",
}  # fmt: skip
EXACT_FOR_WHOLE = {"add", "mul", "rsub", "sub", "sum"}  # as indices are made of


def _rounds_nothing(name: str, arguments: Any, result: Any) -> bool:
    if name == "_to_copy" and isinstance(result, Tensor) and result.is_floating_point():
        given = arguments[0].dtype
        return not given.is_floating_point or torch.finfo(given).eps >= torch.finfo(result.dtype).eps
    if name in EXACT_FOR_WHOLE:
        numbers = [x for x in (*arguments, result) if isinstance(x, (Tensor, float))]
        return all(map(_whole, numbers))
    return name in EXACT


def _whole(x: Tensor | float) -> bool:
    """True if all numbers of ``x`` are whole, and so small that sums and products of such round nothing."""
    if isinstance(x, float):
        return x.is_integer()
    if not x.is_floating_point():
        return not x.is_complex()
    return bool(((x == x.round()) & (x.abs() * torch.finfo(x.dtype).eps < 1)).all())


class Perturbing(DispatchMode):
    """While active, operations that round return new floating tensors moved by up to one unit in the last place.

    Compiled code runs uncompiled: its operations could not be told apart, and this class would be compiled into it.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator, self._stack = generator, ExitStack()

    def __enter__(self) -> "Perturbing":
        self._stack.enter_context(uncompiled_calls())
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._stack.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if returns_a_view(func) or _rounds_nothing(operation_name(func), args, result):
            return result  # a view, or written in place, or exact
        if isinstance(result, Tensor):
            return self._moved(result)
        if isinstance(result, (tuple, list)):
            return type(result)(self._moved(x) if isinstance(x, Tensor) else x for x in result)
        return result

    def _moved(self, x: Tensor) -> Tensor:
        moves = x.is_floating_point() and x.numel() and not has_no_memory(x)
        return perturbed(x, self._generator) if moves else x


def perturbed_vjp(
    subject: Subject,
    upstream: Upstream,
    inputs: Sequence[Any],
    generator: torch.Generator,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Gradients of ``subject`` at ``inputs``, with upstream gradients and every operation's result perturbed."""
    moved = [None if v is None else perturbed(v, generator) for v in upstream]

    def gradients() -> list[Tensor]:
        return subject.vjp(moved, inputs, dtype=dtype)

    return under(Perturbing(generator), gradients, otherwise=gradients)


def under(mode: DispatchMode, run: Callable[[], Result], otherwise: Callable[[], Result]) -> Result:
    """The result of ``run`` under ``mode``; that of ``otherwise`` where something in it does not run under one."""
    try:
        with mode:
            return run()
    except (CallFailed, RuntimeError):
        return otherwise()


def scatter(change: Callable[[], float]) -> float:
    """The largest of several draws of how far a perturbed result is off; an infinite one measures nothing."""
    return max((0.0, *filter(math.isfinite, [change() for _ in range(DRAWS)])))
