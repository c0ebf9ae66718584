"""``GradientMonitor`` in somebody's loop: silent while gradients are right, ahead of the optimizer when not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lean_mnist.chainrule import dense
from lean_mnist.crosscheck import GradientMismatch, GradientMonitor
from lean_mnist.nn import Dense, ReLU


def _model() -> nn.Module:
    return nn.Sequential(Dense(8, 5, generator=torch.Generator().manual_seed(1)), ReLU(), Dense(5, 3))


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
    optimizer.zero_grad()
    x, labels = torch.randn(16, 8, generator=generator), torch.randint(0, 3, (16,), generator=generator)
    torch.nn.functional.cross_entropy(model(x), labels).backward()
    optimizer.step()


@pytest.mark.parametrize("seed", range(3))
def test_a_right_model_is_checked_on_schedule_and_left_alone(seed: int) -> None:
    weights = []
    for watched in (False, True):
        torch.manual_seed(seed)
        model, generator = _model(), torch.Generator().manual_seed(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = GradientMonitor(model, every=2, seed=seed) if watched else None
        for _ in range(6):
            _step(model, optimizer, generator)
        weights.append([parameter.clone() for parameter in model.parameters()])
        if monitor is not None:
            assert len(monitor.history) == 9  # three modules at the forwards 0, 2 and 4
            monitor.detach()
        weights[-1].append(torch.rand(3))  # the caller's random numbers
    assert all(map(torch.equal, *weights))


def test_a_wrong_backward_is_caught_before_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, generator = _model(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    right = dense.dense_backward

    def wrong(tape, d_z, needs=(True, True, True)):  # type: ignore[no-untyped-def]
        found = right(tape, d_z, needs)
        return found._replace(weight_HD=found.weight_HD * 1.01)

    before = [parameter.clone() for parameter in model.parameters()]
    monkeypatch.setattr(dense, "dense_backward", wrong)
    with GradientMonitor(model, every=1, seed=0), pytest.raises(GradientMismatch, match="weight"):
        _step(model, optimizer, generator)
    assert all(map(torch.equal, model.parameters(), before))
