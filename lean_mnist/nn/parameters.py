"""All parameters of a model as one vector, bit for bit both ways.

The order is that of ``model.parameters()``, each tensor row by row. For 784-128-10 that is ``W1 (128 × 784)`` at 0,
``b1`` at 100,352, ``W2 (10 × 128)`` at 100,480 and ``b2`` at 101,760: 101,770 numbers, the layout of LEAN_mnist.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lean_mnist.errors import ArgumentError


class ParameterSlot(NamedTuple):
    """Where one parameter stands in the vector."""

    name: str
    offset: int
    shape: tuple[int, ...]


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
