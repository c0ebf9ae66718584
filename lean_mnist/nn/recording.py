"""A computation on tensors, recorded once as the list of its kernels and repeated without the Python in between.

A training step of a small network is some thirty kernels of a few microseconds, and the Python that decides which they
are takes longer than they do. But they are the same at every step. So the step is computed once as it is written, each
kernel that PyTorch runs is noted with the tensors that it read and made, and from then on the same kernels are run on
the same tensors, each writing its result where the first one wrote it. It is what a CUDA graph is, for a processor.

What is repeated is what was computed: the recording is played once and compared, bit for bit, with the computation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from lean_mnist.torch_internals import (
    DispatchMode,
    below_autograd,
    operation_name,
    overwrites_an_argument,
    threshold_backward_into,
    tree_leaves,
)

Result = TypeVar("Result")
Play = Callable[..., Any]


class CannotRecord(Exception):
    """A computation that is not the same kernels every time."""


class Recording(Generic[Result]):
    """``compute()``, done once, and its kernels; :meth:`play` does them again.

    ``result`` is what ``compute`` returned; its tensors, and any other that it made, are rewritten by every ``play``.
    Inputs are the tensors that ``compute`` read, with what stands in them at the time of ``play``; they must stay where
    they are. Raises :class:`CannotRecord` where the same kernels would not do next time: ``compute`` looked at a
    number, drew random ones, or gave other bits when it was played.
    """

    def __init__(self, compute: Callable[[], Result]) -> None:
        with torch.no_grad(), _Kernels() as kernels:
            self.result = compute()
        made = [tensor for call in kernels.calls for tensor in _all_of(call.made)]
        before = [tensor.clone() for tensor in made]
        with torch.no_grad():
            self._plays = [call.again() for call in kernels.calls]
        self._plays = [play for play, call in zip(self._plays, kernels.calls, strict=True) if not kernels.fixed(call)]
        self.play()
        if not all(_same_bits(new, old) for new, old in zip(made, before, strict=True)):
            raise CannotRecord("played again, it gave other numbers")

    def play(self) -> None:
        """Run the kernels once more."""
        with below_autograd():
            for play in self._plays:
                play()


class _Call(NamedTuple):
    """A kernel, its arguments, and the tensor that it made or changed."""

    kernel: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    made: Any  # a tensor, or several

    def again(self) -> Play:
        """The same once more, into the same tensor."""
        kernel, arguments, options, made = self
        name = operation_name(kernel)
        if name in _INTO:
            return functools.partial(_INTO[name], *arguments, made)
        if name == "threshold_backward":  # PyTorch has no function of its own for it
            upstream, z, threshold = arguments
            return functools.partial(threshold_backward_into, upstream, z, threshold, made)
        if name.endswith("_"):
            target, *others = arguments
            return functools.partial(getattr(target, name), *others, **options)
        if not isinstance(made, Tensor):
            return lambda: _copy_all(made, kernel(*arguments, **options))
        # PyTorch's own function of the name is called faster than the kernel, where there is one for these arguments.
        quick = functools.partial(getattr(torch, name, _missing), *arguments, **{**options, "out": made})
        try:
            quick()
        except (TypeError, RuntimeError):
            return lambda: made.copy_(kernel(*arguments, **options))
        return quick


def _copy_all(places: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for place, value in zip(places, values, strict=True):
        place.copy_(value)


def _missing(*arguments: Any, **options: Any) -> Any:
    raise TypeError


# What these make does not depend on the numbers in the tensor that they are given.
_LIKE = ("zeros_like", "new_full", "new_zeros", "new_empty", "ones_like", "empty_like")
# Kernels that are called otherwise when there is a place for their result.
_INTO: dict[str, Play] = {
    "_to_copy": lambda x, made: made.copy_(x),
    "relu": lambda x, made: torch.clamp_min(x, 0, out=made),
    "zeros_like": lambda like, made: made.zero_(),
    "linalg_vector_norm": lambda x, *arguments: torch.linalg.vector_norm(x, *arguments[:-1], out=arguments[-1]),
    "new_full": lambda like, size, value, made: made.fill_(value),
}


class _Kernels(DispatchMode):
    """Notes every kernel but views: a view of a tensor that stays where it is need not be taken again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self._fixed: set[int] = set()  # storages whose content no input decides

    def fixed(self, call: _Call) -> bool:
        """Whether this kernel gives the same at every play, as nothing that it reads ever changes."""
        return all(_storage(made) in self._fixed for made in _all_of(call.made))

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise CannotRecord(f"{func}: draws random numbers")
        made = func(*args, **options)
        if not all(isinstance(one, Tensor) for one in _all_of(made)):
            raise CannotRecord(f"{func}: looks at a number")
        if not func.is_view:
            self.calls.append(_Call(func, args, options, made))
            name = operation_name(func)
            reads = () if name in _LIKE else [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor)]
            written = {_storage(one) for one in _all_of(made)}
            if overwrites_an_argument(func):
                self._fixed -= written
            elif all(_storage(tensor) in self._fixed for tensor in reads):
                self._fixed |= written
        return made


def _all_of(made: Any) -> Sequence[Any]:
    return made if isinstance(made, (list, tuple)) else (made,)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.is_floating_point():
        a, b = a.nan_to_num(nan=1.5e30), b.nan_to_num(nan=1.5e30)
    return torch.equal(a, b)
