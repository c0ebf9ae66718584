"""All parameters of a model as one vector, bit for bit both ways.

The order is that of ``model.parameters()``, each tensor row by row. For 784-128-10 that is ``W1 (128 × 784)`` at 0,
``b1`` at 100,352, ``W2 (10 × 128)`` at 100,480 and ``b2`` at 101,760: 101,770 numbers, the layout of LEAN_mnist.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lean_mnist.errors import ArgumentError


class ParameterSlot(NamedTuple):
    """Place of one parameter in the vector."""

    name: str
    offset: int
    shape: tuple[int, ...]

    def where(self, place: int) -> tuple[int, ...]:
        """The index in the parameter of the number that is ``place`` after ``offset``."""
        return unravelled(place, self.shape)


class ColumnsSlot(ParameterSlot):
    """Place of a weight ``(H, D)`` that stands column by column."""

    def where(self, place: int) -> tuple[int, ...]:
        """The index in the weight of the number that is ``place`` after ``offset``."""
        return unravelled(place, self.shape[::-1])[::-1]


def place_of(layout: Sequence[ParameterSlot], index: int) -> str:
    """``"layers.0.weight[3, 5]"`` for a place in the flat vector."""
    for slot in layout:
        place = index - slot.offset
        if 0 <= place < math.prod(slot.shape):
            at = list(slot.where(place))
            return f"{slot.name}{at if at else ''}"
    return f"element {index}"


def unravelled(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The index of the number that is ``place`` after the first; PyTorch's own way imports SymPy, for 0.7 s."""
    return tuple(int(i) for i in np.unravel_index(place, shape))


def parameter_layout(model: nn.Module) -> list[ParameterSlot]:
    """The slots of ``model``'s parameters, in order and without gaps."""
    sizes = (parameter.numel() for parameter in model.parameters())
    return [
        ParameterSlot(name, offset, tuple(parameter.shape))
        for (name, parameter), offset in zip(model.named_parameters(), accumulate(sizes, initial=0), strict=False)
    ]


def flatten_parameters(model: nn.Module) -> Tensor:
    """A new vector ``(P,)`` holding every parameter of ``model``; raises ``ArgumentError`` if their dtypes differ."""
    parameters = [parameter.detach() for parameter in model.parameters()]
    dtypes = {parameter.dtype for parameter in parameters}
    if len(dtypes) != 1:  # torch.cat would promote, and a round trip would no longer be bit for bit
        raise ArgumentError(f"model: expected parameters of one dtype, found {sorted(map(str, dtypes)) or 'none'}")
    return torch.cat([parameter.reshape(-1) for parameter in parameters])


Network = TypeVar("Network", bound=nn.Module)


class FlatParameters(Generic[Network]):
    """All parameters of ``model``, from here on views of ``vector`` (P,), and their ``.grad``, of ``gradient`` (P,).

    So an optimizer of ``[vector]`` moves the whole network in one operation. Weights ``(H, D)`` lie there column by
    column: a dense layer multiplies by ``Wᵀ``, whose rows are then contiguous.

    ``network`` is what steps are computed with: ``model`` itself; or, where it is to be ``computed_in`` another dtype,
    its twin in that, with the weights of ``model``, rounded, and gradients of its own. ``layout`` has the slot of each
    parameter. Raises ``ArgumentError`` if the parameters are of several dtypes or devices.
    """

    def __init__(self, model: Network, computed_in: torch.dtype | None = None) -> None:
        parameters = list(model.parameters())
        kinds = {(str(p.dtype), str(p.device)) for p in parameters}
        if len(kinds) != 1:
            raise ArgumentError(f"model: expected parameters of one dtype and device, found {sorted(kinds) or 'none'}")
        sizes = [parameter.numel() for parameter in parameters]
        self.vector = nn.Parameter(parameters[0].data.new_empty(sum(sizes)))
        for parameter, part in zip(parameters, self.vector.data.split(sizes), strict=True):
            _by_columns(part, parameter.shape).copy_(parameter.data)
        self.gradient = torch.zeros_like(self.vector.data)
        self.vector.grad = self.gradient
        self.layout = [ColumnsSlot(*slot) if len(slot.shape) == 2 else slot for slot in parameter_layout(model)]
        _lay(model, self.vector.data, self.gradient)
        self.network, self._rounded = model, None
        if computed_in is not None and computed_in != self.vector.dtype:
            self.network = copy.deepcopy(model)
            self._rounded = self.vector.data.to(computed_in), self.gradient.to(computed_in)
            _lay(self.network, *self._rounded)

    @property
    def rounded(self) -> Tensor | None:
        """``vector`` as ``network`` has it; ``None`` where that is the model itself."""
        return None if self._rounded is None else self._rounded[0]

    def gradients_to_vector(self, gradients: Iterable[Tensor]) -> None:
        """Copy the gradient of each parameter of ``network``, in order, to its ``.grad`` and to ``gradient``.

        Raises ``ArgumentError`` if their sizes do not add up to that of the vector.
        """
        parts = [_in_columns(gradient) for gradient in gradients]
        if sum(map(len, parts)) != len(self.gradient):
            raise ArgumentError(f"gradients: expected {len(self.gradient)} numbers, found {sum(map(len, parts))}")
        torch.cat(parts, out=self.gradient if self._rounded is None else self._rounded[1])
        if self._rounded is not None:
            self.gradient.copy_(self._rounded[1])

    def vector_to_network(self) -> None:
        """Bring ``vector`` to ``network``, rounded; nothing is to be done where ``network`` is the model itself."""
        if self._rounded is not None:
            self._rounded[0].copy_(self.vector.data)


def _lay(model: nn.Module, values: Tensor, gradients: Tensor) -> None:
    """Make parts of these vectors the parameters of ``model`` and their gradients."""
    parameters = list(model.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, part, place in zip(parameters, values.split(sizes), gradients.split(sizes), strict=True):
        shape = parameter.shape
        parameter.grad = None
        parameter.data = _by_columns(part, shape)
        parameter.grad = _by_columns(place, shape)


def _in_columns(parameter: Tensor) -> Tensor:
    return parameter.T.reshape(-1) if parameter.dim() == 2 else parameter.reshape(-1)


def _by_columns(part: Tensor, shape: torch.Size) -> Tensor:
    return part.view(shape[::-1]).T if len(shape) == 2 else part.view(shape)


@torch.no_grad()
def unflatten_parameters(vector_P: Tensor, model: nn.Module) -> None:
    """Copy ``vector (P,)`` into ``model``'s parameters; raises ``ArgumentError`` if its size or dtype differs."""
    parameters = list(model.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    if tuple(vector_P.shape) != (total,):
        raise ArgumentError(f"vector: expected shape ({total},), found {tuple(vector_P.shape)}")
    for parameter in parameters:
        if parameter.dtype != vector_P.dtype:
            raise ArgumentError(f"vector: expected {parameter.dtype}, found {vector_P.dtype}")
    for parameter, part in zip(parameters, vector_P.split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(part.view_as(parameter))
