"""Faults that depend on earlier calls: stale values, buffers that are not cleared, races, rare calls."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lean_mnist.chainrule.dense import DenseTape
from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.mutants.mutant import ACTIVATION, INPUT, LOSS, WEIGHT, Group, Memory, key_of, with_entry

# fmt: off
GROUP = Group("memory")
weight = partial(GROUP, WEIGHT, remembers=True)

weight("weight-stale-input", Kind.STALE_VALUE, "dW is formed with the last call's input",
    "second call")(lambda memory, g, t, z: z.T @ memory.swap(key_of(*t), t.x_BD.detach().clone()))
GROUP(INPUT, "input-stale-weight", Kind.STALE_VALUE, "dx is formed with the last call's weight", "second step",
    remembers=True)(lambda memory, g, t, z: z @ memory.swap(key_of(t.weight_HD), t.weight_HD.detach().clone()))


def _stale_saved(memory: Memory, original: Any, saved: Any, upstream: Tensor) -> Any:
    """The backward of the last call's saved arrays, where they have the shapes of this one's."""
    tensors = saved if isinstance(saved, tuple) else (saved,)
    stale = memory.swap(key_of(*tensors), tuple(t.detach().clone() for t in tensors))
    return original(stale if isinstance(saved, tuple) else stale[0], upstream)


GROUP(ACTIVATION, "mask-stale", (Kind.STALE_VALUE, Kind.MASK), "the mask is the last call's", "second call",
    remembers=True)(_stale_saved)
GROUP(LOSS, "loss-stale", Kind.STALE_VALUE, "probabilities and labels are the last call's", "second call",
    remembers=True)(_stale_saved)


# A term too many, from an earlier call.
@weight("weight-not-cleared", (Kind.STALE_VALUE, Kind.MISSING_TERM), shows="second call")
def _not_cleared(memory: Memory, right: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    """dW is added to the last call's."""
    before = memory.kept.get(key_of(right))
    memory.kept[key_of(right)] = right.detach().clone()
    return right if before is None else right + before


weight("weight-race-every-50", Kind.NONDETERMINISM, "every 50th call doubles the first row of dW",
    "every 50th call")(lambda memory, g, t, z: with_entry(g, 0, 2 * g[0]) if memory.count() % 50 == 0 else g)


@weight("weight-race-at-random", Kind.NONDETERMINISM, shows="at random")
def _at_random(memory: Memory, right: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    """One call in ten loses half of the batch."""
    lost = float(torch.rand((), generator=memory.random)) < 0.1
    half = len(d_z) // 2
    return d_z[:half].T @ tape.x_BD[:half] if lost else right


weight("weight-noise", Kind.NONDETERMINISM, "dW is off by 0.01 %, differently at each call")(
    lambda memory, g, t, z: g * (1 + 1e-4 * torch.randn(g.shape, generator=memory.random, dtype=g.dtype)))
weight("weight-after-200-calls", Kind.CONSTANT_FACTOR, "dW is 0.1 % too large after the first 200 calls",
    "after 200 calls")(lambda memory, g, t, z: g if memory.count() <= 200 else g * 1.001)
