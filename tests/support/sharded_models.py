"""Models for several ranks, right and wrong, that other processes can import."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function


def on_rank_one() -> bool:
    """True in the second process of a group."""
    return dist.is_initialized() and dist.get_rank() == 1


class Swish(Function):
    """``x · σ(x)``; ``wrong`` on rank 1, by a part of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, wrong: Any) -> Any:
        ctx.save_for_backward(x)
        ctx.wrong = wrong
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return g * s * (1 + x * (1 - s)) * (1.01 if ctx.wrong and on_rank_one() else 1.0), None


class Network(nn.Module):
    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.wrong = nn.Linear(6, 8), nn.Linear(8, 4), wrong

    def forward(self, x: Tensor) -> Any:
        return self.last(Swish.apply(self.first(x), self.wrong))


def wrong_on_rank_one() -> nn.Module:
    return Network(wrong=True)


def fsdp2(model: Any) -> nn.Module:
    """Fully sharded over all ranks, the last layer in a group of its own."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model.last, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def tensor_parallel(model: nn.Module) -> nn.Module:
    """The first layer's columns and the last layer's rows on each rank."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    parallelize_module(model, mesh, {"first": ColwiseParallel(), "last": RowwiseParallel()})
    return model


def without_reduction(model: nn.Module) -> nn.Module:
    """Data parallel, but no rank hears of the others' gradients."""
    return model


class SplitColumns(nn.Module):
    """A linear layer of which every rank has some columns of the weight's transpose, written by hand."""

    def __init__(self, reduced: bool) -> None:
        super().__init__()
        self.weight, self.reduced = nn.Parameter(torch.randn(4, 6)), reduced
        if dist.is_initialized():
            self.weight = nn.Parameter(self.weight.detach().chunk(dist.get_world_size())[dist.get_rank()].clone())

    def forward(self, x: Tensor) -> Any:
        if not dist.is_initialized():
            return x @ self.weight.T
        return Gathered.apply(Copied.apply(x, self.reduced) @ self.weight.T)


class Copied(Function):
    """The identity, whose backward adds up what every rank makes of its copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, reduced: Any) -> Any:
        ctx.reduced = reduced
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        g = g.clone()
        if ctx.reduced:
            dist.all_reduce(g)
        return g, None


class Gathered(Function):
    """All ranks' columns, whose backward is this rank's part of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts, -1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g.chunk(dist.get_world_size(), -1)[dist.get_rank()]


def split_columns() -> nn.Module:
    return SplitColumns(reduced=True)


def split_columns_without_reduction() -> nn.Module:
    return SplitColumns(reduced=False)


def gathered(name: str, x: Tensor) -> Tensor:
    """The whole of ``x`` if it is a gradient of a weight."""
    if name != "gradient of weight":
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def raising() -> nn.Module:
    if on_rank_one():
        raise OSError("rank one is lost")
    return Network()
