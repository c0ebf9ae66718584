"""Functions for the tests of the record of other people's gradients: one right, one wrong, one straight-through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return upstream * 2


class Tripled(Doubled):
    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return upstream * 3


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 4).round() / 4

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return upstream
