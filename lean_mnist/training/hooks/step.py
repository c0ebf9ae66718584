"""Hooks, which look at a step between its backward pass and the update, and what becomes of a step that fails.

A hook says at which steps it is due and, given the step, yields records. It never talks to a sink. A hook that raises
stops the run before the gradients reach the weights: that is a gate.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from lean_mnist.audit.bundle import save_step_bundle
from lean_mnist.errors import GradientMismatch
from lean_mnist.invocation import typed
from lean_mnist.nn.step import Batch, Step
from lean_mnist.training.config import Config
from lean_mnist.training.config.schedules import is_power_of_ten
from lean_mnist.training.sinks.records import Notice, Record
from lean_mnist.training.state import CheckSummary


class Hook(Protocol):
    """Looks at the steps at which it is due."""

    def due(self, step: int, /) -> bool:
        """Schedule: whether to look at step number ``step``."""

    def on_gradients(self, step: Step, /) -> Iterable[Record]:
        """Records of this step; raises to keep its gradients from the weights."""


@dataclass(frozen=True)
class StepHooks:
    """Everything that looks at the steps of a run; gates are each process's own.

    Of several processes only the writer's observers record, after the gradients are summed. Of one, they come before
    the gates, because the records of a refused step are what a person needs to see.
    """

    health: Hook  # a gate due at every step; in a chunk of steps the update's own test stands in for it
    observers: Sequence[Hook]  # record what they see
    gates: Sequence[Hook]  # further ones
    checks: CheckSummary  # the findings of this process's gates
    # Gates of every step. An engine that screens stands in for them in a chunk, but at the steps at which they are due.
    every_step: Sequence[Hook] = ()
    before: Callable[[Sequence[Batch]], None] = lambda batches: None  # a gate before a step is computed from these
    # As ``before``, of a step that an engine has computed in a chunk: its features, and what makes them again.
    compare_held: Callable[[Tensor, Callable[[], Tensor]], None] = lambda features, again: None
    at_rest: Callable[[], Iterable[Record]] = tuple  # a gate before weights and optimizer's state are saved

    def steps_until_due(self, first: int, most: int, screens: bool) -> int:
        """Steps from number ``first`` on, up to ``most``, before one that a hook besides ``health`` must look at.

        ``screens`` says whether the engine does.
        """
        if self.every_step and not screens:
            return 0
        schedules = {hook.due for hook in (*self.observers, *self.gates, *self.every_step)}
        return next((i for i in range(most) if any(due(first + i) for due in schedules)), most)

    def is_only_observed(self, step: int) -> bool:
        """True if no gate is due at this step, finite, of an engine that screens where that is asked for."""
        return step > 1 and not any(hook.due(step) for hook in (*self.gates, *self.every_step))


# A run that goes on after a failure may fail at every step; the first ones tell.
MOST = 3
FOLDER = "failures"


@dataclass(frozen=True)
class FailurePolicy:
    """Treatment of steps whose gradients fail a check: refused or warned of, and the first of them kept.

    ``summary`` counts the failures; whoever calls ``refuse`` has entered this one. With ``stop`` the step is refused
    and the run ends, else it is warned of. Into ``folder``, if any, go ``step-<n>.pt`` with ``config``; of several
    processes each writes of its own part, ``step-<n>-rank-<r>.pt``.
    """

    summary: CheckSummary
    stop: bool = True
    folder: Path | None = None
    config: Config | None = None
    rank: int | None = None

    def keep(self, step: Step, message: str) -> str:
        """Write the bundle; returns the command that reproduces the step. A full disk stops nothing."""
        if self.folder is None or self.config is None:
            return ""
        ending = ".pt" if self.rank is None else f"-rank-{self.rank}.pt"
        path = self.folder / f"step-{step.number}{ending}"
        if not path.exists():  # else the other check has failed at the same step before
            if len(list(self.folder.glob(f"step-*{ending}"))) >= MOST:
                return ""
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                save_step_bundle(path, step, message, self.config.seed, self.config.to_dict())
            except OSError as error:
                return f"; its bundle could not be written: {path}: {error.strerror or error}"
        return f"; to ask again: {typed('python -m lean_mnist.crosscheck.replay', path)}"

    def refuse(self, step: Step, found: str, details: str) -> Iterator[Record]:
        """Keep the step with all ``details`` and raise ``GradientMismatch`` with ``found``, or yield a warning."""
        head = f"gradient check failed at step {step.number}: "
        kept, failures = self.keep(step, head + details), self.summary.failures
        if self.stop:
            raise GradientMismatch(f"{head}{found}; the step was not applied{kept}")
        if is_power_of_ten(failures):  # a run that goes on wrong may fail at every step
            count = "" if failures == 1 else f" (failure {failures:,} of this run)"
            yield Notice(step.number, "crosscheck/warning", f"{head}{found}{count}{kept}")
