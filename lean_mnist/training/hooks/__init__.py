"""Hooks: look at every step between the backward pass and the update, and make records of it."""

from lean_mnist.training.hooks.checks import CrossCheckHook, ScreenHook, cause_of_not_finite
from lean_mnist.training.hooks.failures import FailureKeeper, FailurePolicy
from lean_mnist.training.hooks.health import HealthHook, LossHook, NormsHook
from lean_mnist.training.hooks.step import Hook, KeepFailure, Step, StepHooks

__all__ = [
    "CrossCheckHook",
    "FailureKeeper",
    "FailurePolicy",
    "HealthHook",
    "Hook",
    "KeepFailure",
    "LossHook",
    "NormsHook",
    "ScreenHook",
    "Step",
    "StepHooks",
    "cause_of_not_finite",
]
