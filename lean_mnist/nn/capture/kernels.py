"""A computation on tensors, captured once as the list of its kernels and replayed without the Python in between.

A training step of a small network is some thirty kernels of a few microseconds, and the Python that decides which they
are takes longer than they do. But they are the same at every step: each is noted once with the tensors that it read and
made, and from then on run on the same tensors. The first replay is compared with the computation bit for bit.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

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
Result_co = TypeVar("Result_co", covariant=True)


class CannotCapture(Exception):
    """A computation that is not the same kernels every time."""


class Replayable(Protocol[Result_co]):
    """A captured computation: ``replay`` computes again from the present content of the tensors that it reads."""

    @property
    def result(self) -> Result_co:
        """Its tensors, rewritten by every ``replay``."""

    def replay(self) -> None:
        """Compute again."""


class KernelCapture(Generic[Result]):
    """``compute()``, done once, and its kernels; :meth:`replay` runs them again.

    ``result`` is the return value of ``compute``; its tensors are rewritten by every replay, except one whose only use
    is to be concatenated into another. Inputs are the tensors that ``compute`` read; they keep their memory.
    Raises :class:`CannotCapture` where the same kernels would not do next time: ``compute`` looked at a number, drew
    random ones, or gave other bits when it was replayed.
    """

    def __init__(self, compute: Callable[[], Result]) -> None:
        with torch.no_grad(), _Kernels() as kernels:
            self.result = compute()
        changing = [call for call in kernels.calls if not kernels.is_constant(call)]
        before = [(made, made.clone()) for call in kernels.calls for made in _list_of(call.made)]
        with torch.no_grad():
            self._kernels = [call.repeatable() for call in _without_concatenations(changing)]
        self.replay()
        if not all(_same_bits(made, old) for made, old in before):
            raise CannotCapture("replayed, it gave other numbers")

    def replay(self) -> None:
        """Run the kernels once more."""
        with below_autograd():
            for kernel in self._kernels:
                kernel()


@dataclass(eq=False)
class _Call:
    """A kernel, its arguments, and the tensor or tensors that it made or changed."""

    kernel: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    made: Any

    def repeatable(self) -> Callable[[], Any]:
        """Function without arguments that runs the kernel again, into the same tensor."""
        kernel, arguments, options, made = self.kernel, self.arguments, self.options, self.made
        name = operation_name(kernel)
        if name in _INTO:
            return functools.partial(_INTO[name], *arguments, made)
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

    def tensors_read(self) -> list[Tensor]:
        """Tensors among the arguments."""
        return [leaf for leaf in tree_leaves((self.arguments, self.options)) if isinstance(leaf, Tensor)]


def _copy_all(targets: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)


def _missing(*arguments: Any, **options: Any) -> Any:
    raise TypeError


# Their result does not depend on the numbers in the tensor that they are given.
_LIKE = ("zeros_like", "new_full", "new_zeros", "new_empty", "ones_like", "empty_like")
# Kernels that are called in another way when there is a tensor for their result.
_INTO: dict[str, Callable[..., Any]] = {
    "_to_copy": lambda x, made: made.copy_(x),
    "relu": lambda x, made: torch.clamp_min(x, 0, out=made),
    "threshold_backward": threshold_backward_into,
    "zeros_like": lambda like, made: made.zero_(),
    "linalg_vector_norm": lambda x, *arguments: torch.linalg.vector_norm(x, *arguments[:-1], out=arguments[-1]),
    "new_full": lambda like, size, value, made: made.fill_(value),
}
_ALIGNMENT = 64  # bytes, of every tensor that PyTorch makes


class _Kernels(DispatchMode):
    """Notes every kernel but views: a view of a tensor that keeps its memory need not be taken again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self._constant: set[int] = set()  # storages whose content depends on no input

    def is_constant(self, call: _Call) -> bool:
        """True if this kernel gives the same at every replay, as nothing that it reads ever changes."""
        return all(_storage(made) in self._constant for made in _list_of(call.made))

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise CannotCapture(f"{func}: draws random numbers")
        made = func(*args, **(kwargs or {}))
        if not all(isinstance(one, Tensor) for one in _list_of(made)):
            raise CannotCapture(f"{func}: looks at a number")
        if not func.is_view:
            call = _Call(func, args, kwargs or {}, made)
            self.calls.append(call)
            written = {_storage(one) for one in _list_of(made)}
            if overwrites_an_argument(func):
                self._constant -= written
            elif operation_name(func) in _LIKE or all(_storage(x) in self._constant for x in call.tensors_read()):
                self._constant |= written
        return made


def _without_concatenations(calls: Sequence[_Call]) -> list[_Call]:
    """The same kernels, but where vectors are concatenated into a tensor their kernels write into its parts at once.

    Where a part is aligned in another way than the vector it is copied: products round differently there.
    """
    found: list[_Call] = []
    for call in calls:
        if operation_name(call.kernel) != "cat" or "out" not in call.options:
            found.append(call)
            continue
        vectors: Sequence[Tensor] = call.arguments[0]
        for vector, part in zip(vectors, call.made.split([len(vector) for vector in vectors]), strict=True):
            index = _only_maker(vector, call, calls)
            if index is None or (part.data_ptr() - vector.data_ptr()) % _ALIGNMENT:
                found.append(_Call(torch.ops.aten.copy_.default, (part, vector), {}, part))
            else:
                made = calls[index].made
                into = part.as_strided(made.size(), made.stride(), part.storage_offset())
                found[found.index(calls[index])] = replace(calls[index], made=into)
    return found


def _only_maker(vector: Tensor, reader: _Call, calls: Sequence[_Call]) -> int | None:
    """Index of the kernel that made all of ``vector`` in its order, if ``reader`` alone reads it, and only once."""
    storage = _storage(vector)
    if [_storage(x) for call in calls for x in call.tensors_read()].count(storage) != 1:
        return None
    makers = [i for i, call in enumerate(calls) if any(_storage(made) == storage for made in _list_of(call.made))]
    made = calls[makers[0]].made if len(makers) == 1 else None
    if not isinstance(made, Tensor) or made.dtype != reader.made.dtype or not vector.is_contiguous():
        return None
    whole = made.numel() == vector.numel() == vector.untyped_storage().nbytes() // vector.element_size()
    return makers[0] if whole else None


def _list_of(made: Any) -> Sequence[Any]:
    return made if isinstance(made, (list, tuple)) else (made,)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.is_floating_point():
        a, b = a.nan_to_num(nan=1.5e30), b.nan_to_num(nan=1.5e30)
    return torch.equal(a, b)


class CudaGraph(Generic[Result]):
    """The kernels of ``compute()`` as one graph; :meth:`replay` launches it on the current stream, without waiting.

    ``result`` is the return value of ``compute``; it holds numbers after the first replay. Inputs are the tensors that
    ``compute`` read, which must keep their memory. Capturing computes once, to let the libraries set themselves up;
    ``restored`` are tensors that this may change and whose content is then restored.
    Raises :class:`CannotCapture` where ``compute`` needs the host, for a number for instance.
    """

    def __init__(self, compute: Callable[[], Result], restored: Sequence[Tensor] = ()) -> None:
        before = [tensor.clone() for tensor in restored]
        current, other = torch.cuda.current_stream(), torch.cuda.Stream()
        other.wait_stream(current)
        with torch.no_grad(), torch.cuda.stream(other):
            compute()
        current.wait_stream(other)
        for tensor, old in zip(restored, before, strict=True):
            tensor.copy_(old)
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.no_grad(), torch.cuda.graph(self._graph):
                self.result = compute()
        except RuntimeError as error:
            raise CannotCapture(str(error)) from error

    def replay(self) -> None:
        """Launch the graph."""
        self._graph.replay()
