"""A case: one ``autograd.Function`` or operation of a published package, how it is called, and what is known of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor


class Expect(Enum):
    """Knowledge of a gradient; the value says it in the document."""

    RIGHT = "right"
    BUG = "first-order bug"  # an ERROR is expected
    SECOND = "second derivative silently wrong"  # a WARNING of the rule ``double backward``
    CONTRACT = "right, with a limit of use"  # a WARNING of another rule
    INTENDED = "intended"  # not the derivative, and not meant to be
    LIMIT = "limit of the checker"  # refused in words, or inconclusive


@dataclass(frozen=True)
class Call:
    """The arguments of ``check_function``."""

    function: Callable[..., Any]
    inputs: list[Any]
    reference: Callable[..., Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """``build`` imports the package and gives the call; ``fact`` is one sentence for the document."""

    package: str  # as the package index names it
    name: str
    expect: Expect
    fact: str
    build: Callable[[], Call]
    needs_gpu: bool = False

    @property
    def key(self) -> str:
        """``package:name``, which ``--only`` looks in."""
        return f"{self.package}:{self.name}"


def load(path: str) -> Any:
    """The object named ``module:attribute``, or ``module:Class.attribute``; the module is imported."""
    module, _, attributes = path.partition(":")
    found: Any = importlib.import_module(module)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return found


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers whose gradient is checked."""
    return torch.randn(shape, dtype=dtype).requires_grad_()


def uniform(*shape: int, low: float = 0.1, high: float = 0.9, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform numbers between ``low`` and ``high`` whose gradient is checked."""
    return (low + (high - low) * torch.rand(shape, dtype=dtype)).requires_grad_()
