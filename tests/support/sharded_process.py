"""As a program: one of two processes that train a sharded model. Arguments: the file of a store, and the rank.

Prints what a monitor found of a right gradient and of one that is wrong by a factor: sharded as a whole, and by parts;
and of a module with a distributed tensor.
"""

import json
import sys
import warnings
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from tests.support.monitored_models import WIDTH, function, monitored, network


def linear(factor: float) -> Any:
    """``x wᵀ``, with a gradient of ``w`` that is ``factor`` times the right one."""

    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x @ w.T

    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return g @ w, factor * g.T @ x

    return function(forward, backward)


class Linear(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.randn(WIDTH, WIDTH)), linear(factor)

    def forward(self, x: Tensor) -> Any:
        return self.function.apply(x, self.weight)


class Local(Linear):
    """Its weight is a part of a distributed tensor."""

    def distribute(self, mesh: Any) -> nn.Module:
        self.weight = nn.Parameter(distribute_tensor(self.weight.detach(), mesh, [Shard(0)]))
        return self

    def forward(self, x: Tensor) -> Any:
        return self.function.apply(x, cast(DTensor, self.weight).to_local())


def found(factor: float, mesh: Any, *, by_parts: bool) -> list[Any]:
    """The modules and verdicts of two steps."""
    model = network(Linear(factor), nn.Tanh())
    if by_parts:
        fully_shard(model[1], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return [(report.module, report.verdict.value) for report in monitored(model, steps=2).history]


def main(store: str, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    every = {
        str(factor): {"whole": found(factor, mesh, by_parts=False), "part": found(factor, mesh, by_parts=True)}
        for factor in (1.0, 1.1)
    }
    local = monitored(network(Local(1.1).distribute(mesh))).summary()
    print(json.dumps({**every, "distributed": [local.checked, dict(local.not_applicable)]}))
    dist.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], int(sys.argv[2]))
