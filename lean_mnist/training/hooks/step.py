"""A step as hooks see it, between its backward pass and the update, and the interface of a hook.

A hook says at which steps it is due and, given the step, yields records. It never talks to a sink. A hook that raises
stops the run before the gradients reach the weights: that is a gate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from lean_mnist.nn.step import StepTape
from lean_mnist.training.sinks.records import Record
from lean_mnist.training.state import CheckSummary


@dataclass
class Step:
    """One step, its gradients ready in ``.grad`` and not yet applied."""

    number: int  # counted from 1
    model: Any  # the network that computed it
    batches: list[tuple[Tensor, Tensor]]  # one, or several whose gradients were averaged
    loss: Tensor  # the mean over all their examples, a scalar
    gradient: Tensor  # the whole gradient, (P,)
    learning_rate: float  # of the update that follows
    tapes: list[StepTape]  # one a batch; empty where the run keeps none
    past: tuple[StepTape, ...] = ()  # tapes of the steps before, the latest last

    @functools.cached_property
    def loss_value(self) -> float:
        """``loss`` as a Python number, fetched from its device once."""
        return float(self.loss)


class Hook(Protocol):
    """Looks at the steps at which it is due."""

    def due(self, step: int, /) -> bool:
        """Schedule: whether to look at step number ``step``."""

    def on_gradients(self, step: Step, /) -> Iterable[Record]:
        """Records of this step; raises to keep its gradients from the weights."""


# Writes what is needed to reproduce a failed check, given its message; returns the end of that, which says where.
KeepFailure = Callable[[Step, str], str]


def keep_nothing(step: Step, message: str) -> str:
    """``KeepFailure`` of a run without a folder."""
    return ""


@dataclass(frozen=True)
class StepHooks:
    """Everything that looks at the steps of a run.

    Attributes:
        health: a gate due at every step. In a chunk of steps the update's own test stands in for it.
        observers: record what they see; of several processes only the writer's do, after the gradients are summed.
        gates: further gates; each process has its own. They come after the observers where there is one process,
            because the records of a refused step are what a person needs to see.
        checks: the findings of this process's gates.
    """

    health: Hook
    observers: Sequence[Hook]
    gates: Sequence[Hook]
    checks: CheckSummary

    def any_due(self, step: int) -> bool:
        """Whether a scheduled hook, one besides ``health``, is due at this step."""
        return any(hook.due(step) for hook in (*self.observers, *self.gates))
