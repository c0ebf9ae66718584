"""Schedules: the learning rate is a function ``step -> float``, when a hook is due one ``step -> bool``.

The step counts from 0 for the learning rate and from 1 for hooks. So a run resumes without any state of theirs.
"""

import math
from collections.abc import Callable

from lean_mnist.training.config import Config

LearningRate = Callable[[int], float]
Schedule = Callable[[int], bool]

BY_EPOCHS = ("cosine", "one-cycle")  # schedules that depend on how many epochs a run has
# One-cycle (Smith and Topin, 2018): the shape and defaults of torch.optim.lr_scheduler.OneCycleLR.
_ONE_CYCLE_RISE, _ONE_CYCLE_START, _ONE_CYCLE_END = 0.3, 1 / 25, 1 / 25e4


def learning_rate_schedule(config: Config, steps_per_epoch: int) -> LearningRate:
    """The learning rate of each step, ``0 … epochs · steps_per_epoch − 1``, as the configuration asks."""
    warmup, base = config.warmup_steps, config.learning_rate
    total = max(1, config.epochs * steps_per_epoch - warmup)
    decay_steps = config.decay_epochs * steps_per_epoch
    peak = _ONE_CYCLE_RISE * total

    def factor(step: int) -> float:
        if config.schedule == "constant":
            return 1.0
        if config.schedule == "step":
            return _power(config.decay, step // decay_steps)
        if config.schedule == "exponential":
            return _power(config.decay, step / decay_steps)
        if config.schedule == "cosine":
            return _cosine(1.0, 0.0, step / total)
        if step < peak:
            return _cosine(_ONE_CYCLE_START, 1.0, step / peak)
        return _cosine(1.0, _ONE_CYCLE_END, (step - peak) / (total - peak))

    # The schedule starts when the warm-up ends; the warm-up climbs to the rate that the schedule starts from.
    def learning_rate(step: int) -> float:
        if step < warmup:
            return base * factor(0) * (step + 1) / (warmup + 1)
        return base * factor(step - warmup)

    return learning_rate


def _power(base: float, exponent: float) -> float:
    try:
        return base**exponent
    except OverflowError:
        return math.inf


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def every(period: int) -> Schedule:
    """Due at the first step and at every multiple of ``period``; never if ``period`` is 0."""
    return lambda step: period > 0 and (step == 1 or step % period == 0)


def is_power_of_ten(number: int) -> bool:
    """True if ``number`` is 1, 10, 100, …: for things to be reported ever more rarely."""
    while number > 1 and number % 10 == 0:
        number //= 10
    return number == 1
