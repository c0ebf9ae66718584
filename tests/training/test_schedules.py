"""Learning-rate schedules against ``torch.optim.lr_scheduler``, and when hooks are due.

Conventions. Both count steps from 0, the first update being step 0. ``step``, ``exponential`` and ``cosine`` give
PyTorch's values at the same step. ``one-cycle`` does not: PyTorch's ``OneCycleLR(total_steps=T)`` peaks at step
``0.3 T − 1`` and reaches its lowest rate in the last step, ``T − 1``; ours peaks at ``0.3 T`` and would reach the
lowest rate at ``T``, one step after the last. Ours is therefore PyTorch's cycle of ``T + 1`` steps with the peak at
``0.3 T``, without its last step; while falling, it is PyTorch's cycle of ``T`` steps, one step late.
"""

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from lean_mnist.training.config import Config
from lean_mnist.training.config.schedules import every, learning_rate_schedule
from tests.support.training_cases import STEPS_PER_EPOCH, digits_run, named

STEPS, EPOCHS, RATE = 7, 10, 0.3
TOTAL = STEPS * EPOCHS


def torch_rates(scheduler: Callable[[Optimizer], LRScheduler], steps: int) -> list[float]:
    """The rate that PyTorch would use at each of the first ``steps`` steps."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR's own steps warn
        schedule = scheduler(optimizer)
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
    return rates


def our_rates(steps: int = TOTAL, **options: Any) -> list[float]:
    rate = learning_rate_schedule(Config(lr=RATE, epochs=EPOCHS, **options), STEPS)
    return [rate(step) for step in range(steps)]


def one_cycle(total: int, peak: float) -> Callable[[Optimizer], LRScheduler]:
    """PyTorch's cycle of ``total`` steps with its peak at step ``peak``."""
    return lambda optimizer: OneCycleLR(
        optimizer, RATE, total, pct_start=(peak + 1) / total, cycle_momentum=False, div_factor=25, final_div_factor=1e4
    )


SHAPES: dict[str, tuple[dict[str, Any], Callable[[int], Callable[[Optimizer], LRScheduler]]]] = {
    # our options; PyTorch's scheduler, given how many steps there are after the warm-up
    "constant": ({"schedule": "constant"}, lambda total: lambda o: ConstantLR(o, factor=1)),
    "step": (
        {"schedule": "step", "decay": 0.2, "decay_epochs": 3},
        lambda total: lambda o: StepLR(o, 3 * STEPS, gamma=0.2),
    ),
    "exponential": (
        {"schedule": "exponential", "decay": 0.2, "decay_epochs": 3},
        lambda total: lambda o: ExponentialLR(o, gamma=0.2 ** (1 / (3 * STEPS))),
    ),
    "cosine": ({"schedule": "cosine"}, lambda total: lambda o: CosineAnnealingLR(o, total)),
    "one-cycle": ({"schedule": "one-cycle"}, lambda total: one_cycle(total + 1, 0.3 * total)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_schedule_gives_the_rates_of_pytorch(name: str) -> None:
    options, theirs = SHAPES[name]
    assert our_rates(**options) == pytest.approx(torch_rates(theirs(TOTAL), TOTAL), rel=1e-9)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("warmup", [1, 10])
def test_a_warm_up_climbs_to_where_the_schedule_starts(name: str, warmup: int) -> None:
    options, theirs = SHAPES[name]
    ours = our_rates(warmup_steps=warmup, **options)
    after = torch_rates(theirs(TOTAL - warmup), TOTAL - warmup)
    climb = torch_rates(lambda o: LinearLR(o, 1 / (warmup + 1), 1.0, warmup), warmup)
    assert ours[warmup:] == pytest.approx(after, rel=1e-9)
    assert ours[:warmup] == pytest.approx([rate * after[0] / RATE for rate in climb], rel=1e-9)
    assert all(low < high for low, high in itertools.pairwise(ours[: warmup + 1]))


def test_warm_up_before_constant_is_pytorchs_sequence() -> None:
    def theirs(optimizer: Optimizer) -> LRScheduler:
        return SequentialLR(optimizer, [LinearLR(optimizer, 1 / 6, 1.0, 5), ConstantLR(optimizer, 1.0)], [5])

    assert our_rates(schedule="constant", warmup_steps=5) == pytest.approx(torch_rates(theirs, TOTAL), rel=1e-9)


def test_one_cycle_falls_as_pytorchs_does_one_step_late() -> None:
    ours, peak = our_rates(schedule="one-cycle"), round(0.3 * TOTAL)
    theirs = torch_rates(one_cycle(TOTAL, peak - 1), TOTAL)
    assert ours[peak + 1 :] == pytest.approx(theirs[peak:-1], rel=1e-9)
    assert ours[0] == pytest.approx(theirs[0])
    assert ours[0] == pytest.approx(RATE / 25)
    assert max(ours) == ours[peak] == pytest.approx(RATE)
    assert ours[-1] > theirs[-1] == pytest.approx(RATE / 25e4)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("epochs", "steps", "warmup"), [(1, 1, 0), (1, 2, 1), (1, 3, 2), (2, 1, 0)])
def test_the_shortest_runs_have_finite_rates_above_zero(name: str, epochs: int, steps: int, warmup: int) -> None:
    options, _ = SHAPES[name]
    rate = learning_rate_schedule(Config(lr=RATE, epochs=epochs, warmup_steps=warmup, **options), steps)
    rates = [rate(step) for step in range(epochs * steps)]
    assert all(0 < value <= RATE for value in rates)


def test_a_run_uses_the_rates_of_its_schedule(tmp_path: Any) -> None:
    finished = digits_run(tmp_path, schedule="cosine", lr=RATE, warmup_steps=3, log_every=1, accumulate=2)
    steps = -(-STEPS_PER_EPOCH // 2)  # of the optimizer
    rate = learning_rate_schedule(Config(epochs=2, schedule="cosine", lr=RATE, warmup_steps=3), steps)
    used = named(finished.records, "train/learning_rate")
    assert used == [rate(step) for step in range(2 * steps)]


def test_a_warm_up_of_all_steps_but_one_is_accepted(tmp_path: Any) -> None:
    finished = digits_run(tmp_path, epochs=1, warmup_steps=STEPS_PER_EPOCH - 1)
    assert finished.summary.state.step == STEPS_PER_EPOCH


@pytest.mark.parametrize(
    ("period", "due"), [(0, []), (1, [1, 2, 3, 4, 5, 6, 7, 8]), (3, [1, 3, 6]), (8, [1, 8]), (100, [1])]
)
def test_a_hook_is_due_at_the_first_step_and_at_every_multiple(period: int, due: list[int]) -> None:
    schedule = every(period)
    assert [step for step in range(1, 9) if schedule(step)] == due


def test_never_is_never() -> None:
    assert not any(map(every(0), range(10)))
