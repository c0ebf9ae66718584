"""All parameters of a model as one vector, bit for bit both ways.

The order is that of ``model.parameters()``, each tensor row by row. For 784-128-10 that is ``W1 (128 × 784)`` at 0,
``b1`` at 100,352, ``W2 (10 × 128)`` at 100,480 and ``b2`` at 101,760: 101,770 numbers, the layout of LEAN_mnist.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lean_mnist.errors import ArgumentError


class ParameterSlot(NamedTuple):
    """Where one parameter stands in the vector."""

    name: str
    offset: int
    shape: tuple[int, ...]

    def where(self, place: int) -> tuple[int, ...]:
        """The index in the parameter of what stands ``place`` numbers after ``offset``."""
        return _unravelled(place, self.shape)


class ColumnsSlot(ParameterSlot):
    """Where a weight ``(H, D)`` stands column by column."""

    def where(self, place: int) -> tuple[int, ...]:
        return _unravelled(place, self.shape[::-1])[::-1]


def _unravelled(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(place, shape))


def parameter_layout(model: nn.Module) -> list[ParameterSlot]:
    """The slots of ``model``'s parameters, in order and without gaps."""
    slots, offset = [], 0
    for name, parameter in model.named_parameters():
        slots.append(ParameterSlot(name, offset, tuple(parameter.shape)))
        offset += parameter.numel()
    return slots


def flatten_parameters(model: nn.Module) -> Tensor:
    """A new vector ``(P,)`` holding every parameter of ``model``; raises ``ArgumentError`` if their dtypes differ."""
    parameters = [parameter.detach() for parameter in model.parameters()]
    dtypes = {parameter.dtype for parameter in parameters}
    if len(dtypes) != 1:  # torch.cat would promote, and a round trip would no longer be bit for bit
        raise ArgumentError(f"model: expected parameters of one dtype, found {sorted(map(str, dtypes)) or 'none'}")
    return torch.cat([parameter.reshape(-1) for parameter in parameters])


class FlatParameters:
    """All parameters of ``model`` as parts of one vector, and their gradients as parts of another.

    From here on ``model``'s parameters are views of ``vector`` (P,) and their ``.grad`` views of ``gradient`` (P,), so
    an optimizer of ``[vector]`` moves the whole network in one operation. Weights ``(H, D)`` lie there column by
    column: a dense layer multiplies by ``Wᵀ``, whose rows are then contiguous, and a core that computes a part of a
    product's columns finds the same part of the gradient in its cache when the optimizer comes to it.
    ``layout`` says what stands where. Raises ``ArgumentError`` if the parameters are of several dtypes or devices.
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = list(model.parameters())
        kinds = {(str(p.dtype), str(p.device)) for p in parameters}
        if len(kinds) != 1:
            raise ArgumentError(f"model: expected parameters of one dtype and device, found {sorted(kinds) or 'none'}")
        self.vector = nn.Parameter(parameters[0].new_empty(sum(p.numel() for p in parameters)))
        self.gradient = torch.zeros_like(self.vector.data)
        self.vector.grad = self.gradient
        self.layout = [ColumnsSlot(*slot) if len(slot.shape) == 2 else slot for slot in parameter_layout(model)]
        sizes = [p.numel() for p in parameters]
        parts = zip(parameters, self.vector.data.split(sizes), self.gradient.split(sizes), strict=True)
        for parameter, values, gradients in parts:
            parameter.data = _by_columns(values, parameter.shape).copy_(parameter.data)
            parameter.grad = _by_columns(gradients, parameter.shape)


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
