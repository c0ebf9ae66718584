"""Arguments and results of any structure, as flat lists whose tensors are real."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lean_mnist.errors import ArgumentError
from lean_mnist.torch_internals import flatten_tree, tree_leaves, unflatten_tree

Inputs = Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Arguments:
    """The structure of a call's arguments: nested containers, keywords, and which tensors are complex.

    A complex tensor of shape S is checked as the real one of shape (\\*S, 2) that it is in memory. Gradients are then
    those of PyTorch's convention, ``∂L/∂Re + i ∂L/∂Im``.
    """

    structure: Any
    names: tuple[str, ...]  # of the leaves
    top: tuple[str, ...]  # of the arguments
    complex: frozenset[int]

    @classmethod
    def of(cls, inputs: Inputs, names: Sequence[str] | None = None) -> "Arguments":
        """The structure of ``inputs``: a list of positional arguments or a mapping of keyword arguments.

        ``names`` are those of its items, by default their keywords or ``input 0``, …. Raises ``ArgumentError``.
        """
        if not isinstance(inputs, (list, tuple, Mapping)):
            raise ArgumentError(f"inputs: expected a list of arguments, found {type(inputs).__name__}")
        keywords = list(inputs) if isinstance(inputs, Mapping) else [f"input {i}" for i in range(len(inputs))]
        if isinstance(names, str) or not isinstance(names or (), Iterable):
            raise ArgumentError(f"names: expected a list of names, found {type(names).__name__}")
        names = keywords if names is None else list(names)
        if len(names) != len(keywords):
            raise ArgumentError(f"names: expected {len(keywords)}, one an input, found {len(names)}")
        # Verdicts are by name: one of two inputs that share it would pass for the other.
        names = [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]
        named = dict(inputs) if isinstance(inputs, Mapping) else list(inputs)
        paths, leaves, structure = flatten_tree(named)
        top = dict(zip(named if isinstance(named, dict) else range(len(named)), names, strict=True))
        flat = tuple(f"{top[key]}{rest}" for key, rest in paths)
        complex_ones = frozenset(i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.is_complex())
        return cls(structure, flat, tuple(names), complex_ones)

    def flat(self, inputs: Inputs) -> list[Any]:
        """The arguments one after the other, complex tensors as real ones."""
        _, leaves, _ = flatten_tree(dict(inputs) if isinstance(inputs, Mapping) else list(inputs))
        return [as_real(x) if isinstance(x, Tensor) else x for x in leaves]

    def call(self, function: Callable[..., Any], flat: Sequence[Any]) -> Any:
        """The result of ``function`` for such a list of arguments."""
        arguments = self.nested(flat)
        return function(**arguments) if isinstance(arguments, dict) else function(*arguments)

    def nested(self, flat: Sequence[Any]) -> Any:
        """The list or dict of arguments that ``flat`` gives as such a list."""
        return unflatten_tree([as_complex(x) if i in self.complex else x for i, x in enumerate(flat)], self.structure)


def as_real(x: Tensor) -> Tensor:
    """A complex tensor as its real and imaginary parts, along a last dimension of 2; any other as it is."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def as_complex(x: Tensor) -> Tensor:
    """The complex tensor that ``as_real`` gave as ``x``, sharing its memory where its layout allows."""
    try:
        return torch.view_as_complex(x)
    except RuntimeError:
        return torch.view_as_complex(x.contiguous())


def is_dense(x: Any) -> bool:
    """True for a tensor of numbers at an offset and strides; sparse, nested and quantized ones are handed on as is."""
    return isinstance(x, Tensor) and x.layout == torch.strided and not (x.is_nested or x.is_quantized)


def is_float(x: Any) -> bool:
    """True for a floating tensor to calculate with. One of 8 bits or less is data, handed on as it is."""
    return isinstance(x, Tensor) and x.is_floating_point() and x.element_size() > 1


def floating_outputs(result: Any, role: str) -> list[Tensor]:
    """The floating tensors among the results of a function, however nested, complex ones as real.

    Raises ``ArgumentError`` where there is no tensor.
    """
    leaves = tree_leaves(result)
    if not any(isinstance(y, Tensor) for y in leaves):
        raise ArgumentError(
            f"{role}: expected a tensor or tensors in containers as its result, found {type(result).__name__}"
        )
    for y in leaves:
        if isinstance(y, Tensor) and y.requires_grad and not (is_dense(y) and (is_float(y) or y.is_complex())):
            kind = y.dtype if is_dense(y) else "nested" if y.is_nested else y.layout
            raise ArgumentError(f"{role}: expected dense outputs of at least 16 bits a number, found {kind}")
    return [as_real(y) for y in leaves if is_dense(y) and (is_float(y) or y.is_complex())]
