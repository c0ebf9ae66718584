"""Functions right and wrong, and modules that use them, for ``GradientMonitor``."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from lean_mnist.crosscheck.monitor import GradientMonitor

WIDTH = 4


def function(forward: Callable[..., Any], backward: Callable[..., Any], name: str = "Fn", **attributes: Any) -> Any:
    """A Function from two plain functions, each given ``ctx``."""
    body = {"forward": staticmethod(forward), "backward": staticmethod(backward), **attributes}
    return type(name, (Function,), body)


def _sine(ctx: Any, x: Tensor) -> Tensor:
    ctx.save_for_backward(x)
    return x.sin()


def sine(factor: float = 1.0, name: str = "Sine", **attributes: Any) -> Any:
    """The sine, whose gradient is ``factor`` times the right one."""
    return function(_sine, lambda ctx, g: factor * g * ctx.saved_tensors[0].cos(), name, **attributes)


def straight_through(name: str = "STE", **attributes: Any) -> Any:
    """Rounding, with a gradient as if it did not round."""
    return function(lambda ctx, x: x.round(), lambda ctx, g: g, name, **attributes)


class Applied(nn.Module):
    """A module that calls Functions one after the other."""

    def __init__(self, *functions: Any) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Tensor) -> Any:
        for applied in self.functions:
            x = applied.apply(x)
        return x


def network(*modules: nn.Module) -> nn.Sequential:
    """A linear layer before ``modules``."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *modules)


def monitored(model: nn.Module, steps: int = 1, **options: Any) -> GradientMonitor:
    """A monitor that raises nothing, after some steps of training without an optimizer."""
    options = {"every": 1, "seed": 0, "on_mismatch": lambda report: None, **options}
    monitor = GradientMonitor(model, **options)
    for _ in range(steps):
        model(torch.randn(3, WIDTH)).sum().backward()
    return monitor
