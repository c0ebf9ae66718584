"""A Function with a hand-written backward, and small networks that use it, for the trainers of other frameworks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lean_mnist.crosscheck import GradientMonitor

WIDTH, INPUTS, CLASSES = 8, 4, 3


class RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Any:
        inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        ctx.save_for_backward(x, weight, inverse)
        return x * inverse * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight, inverse = ctx.saved_tensors
        n, gw = x * inverse, g * weight
        return inverse * (gw - n * (gw * n).mean(-1, keepdim=True)), (g * n).flatten(0, -2).sum(0)


class SwitchedRMSNorm(RMSNorm):
    """Forgets in its backward that the norm depends on ``x``, while ``wrong``."""

    wrong = False

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        _, weight, inverse = ctx.saved_tensors
        right = RMSNorm.backward(ctx, g)
        return (inverse * g * weight, right[1]) if SwitchedRMSNorm.wrong else right


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, WIDTH))

    def forward(self, x: Any) -> Any:
        return SwitchedRMSNorm.apply(x, self.weight)


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, WIDTH), Norm(), nn.Tanh(), nn.Linear(WIDTH, CLASSES))


def examples(number: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(number, INPUTS, generator=generator), torch.randint(0, CLASSES, (number,), generator=generator)


def weights(model: Any) -> Any:
    return [p.detach().clone() for p in model.parameters()]


def equal(a: Any, b: Any) -> Any:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def hooks(model: Any) -> Any:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def checked_steps(monitor: Any) -> Any:
    """The numbers of the forwards that were checked, every one with success."""
    assert all(report.ok and report.checked for report in monitor.history), list(map(str, monitor.history))
    return [report.step for report in monitor.history]


def monitor_of(callback: Any) -> GradientMonitor:
    """The monitor that a callback attached."""
    assert isinstance(callback.monitor, GradientMonitor)
    return callback.monitor
