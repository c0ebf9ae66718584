"""Faults that remember: stale values, buffers that are not cleared, races, what only some calls show."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lean_mnist.chainrule.dense import DenseGradients, DenseTape
from lean_mnist.mutants.mutant import Mutant, corpus, with_entry

_memory = corpus("memory", "dense")


def _key(*tensors: Tensor) -> tuple[Any, ...]:
    return tuple((t.shape, t.dtype) for t in tensors)


class _Dense:
    """A fault in dW that may remember; ``weight`` gives the faulty one."""

    def __init__(self) -> None:
        self.calls = 0
        self.kept: dict[Any, Any] = {}
        self.random = torch.Generator().manual_seed(0)

    def __call__(self, original: Any, tape: DenseTape, d_z: Tensor, needs: tuple[bool, bool, bool]) -> DenseGradients:
        self.calls += 1
        gradients: DenseGradients = original(tape, d_z, needs)
        if gradients.weight_HD is None:
            return gradients
        return gradients._replace(weight_HD=self.weight(gradients.weight_HD, tape, d_z))

    def weight(self, right: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
        raise NotImplementedError

    def swap(self, key: Any, value: Any) -> Any:
        """What was kept under ``key``, or ``value`` the first time; ``value`` is kept for the next time."""
        kept = self.kept.get(key, value)
        self.kept[key] = value
        return kept


class _StaleInput(_Dense):
    def weight(self, right: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
        kept: Tensor = self.swap(_key(tape.x_BD, tape.weight_HD), tape.x_BD.detach().clone())
        return d_z.T @ kept


class _NotCleared(_Dense):
    def weight(self, right: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
        before = self.kept.get(_key(right))
        self.kept[_key(right)] = right.detach().clone()
        return right if before is None else right + before


class _EveryFiftieth(_Dense):
    def weight(self, right: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
        return with_entry(right, 0, 2 * right[0]) if self.calls % 50 == 0 else right


class _AtRandom(_Dense):
    def weight(self, right: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
        lost = float(torch.rand((), generator=self.random)) < 0.1
        half = len(d_z) // 2
        return d_z[:half].T @ tape.x_BD[:half] if lost else right


class _Noise(_Dense):
    def weight(self, right: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
        return right * (1 + 1e-4 * torch.randn(right.shape, generator=self.random, dtype=right.dtype))


class _AfterManyCalls(_Dense):
    def weight(self, right: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
        return right if self.calls <= 200 else right * 1.001


class _StaleWeight(_Dense):
    def __call__(self, original: Any, tape: DenseTape, d_z: Tensor, needs: tuple[bool, bool, bool]) -> DenseGradients:
        kept = self.swap(_key(tape.weight_HD), tape.weight_HD.detach().clone())
        gradients: DenseGradients = original(tape, d_z, needs)
        return gradients if gradients.x_BD is None else gradients._replace(x_BD=d_z @ kept)


class _StaleSaved:
    """The backward of the last call's saved array, where it has the shape of this one's."""

    def __init__(self) -> None:
        self.kept: dict[Any, Any] = {}

    def __call__(self, original: Any, saved: Any, upstream: Tensor) -> Any:
        tensors = saved if isinstance(saved, tuple) else (saved,)
        stale = self.kept.get(_key(*tensors), tensors)
        self.kept[_key(*tensors)] = tuple(t.detach().clone() for t in tensors)
        return original(stale if isinstance(saved, tuple) else stale[0], upstream)


MUTANTS: tuple[Mutant, ...] = (
    _memory("weight-stale-input", "dW is formed with the last call's input", _StaleInput, "second call"),
    _memory("input-stale-weight", "dx is formed with the last call's weight", _StaleWeight, "second step"),
    _memory("mask-stale", "the mask is the last call's", _StaleSaved, "second call", site="activation"),
    _memory("loss-stale", "probabilities and labels are the last call's", _StaleSaved, "second call", site="loss"),
    _memory("weight-not-cleared", "dW is added to the last call's", _NotCleared, "second call"),
    _memory("weight-race-every-50", "every 50th call doubles the first row of dW", _EveryFiftieth, "every 50th call"),
    _memory("weight-race-at-random", "one call in ten loses half of the batch", _AtRandom, "at random"),
    _memory("weight-noise", "dW is off by 0.01 %, differently at each call", _Noise),
    _memory(
        "weight-after-200-calls", "dW is 0.1 % too large after the first 200 calls", _AfterManyCalls, "after 200 calls"
    ),
)
