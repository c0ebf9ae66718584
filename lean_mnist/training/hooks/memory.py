"""Hook: is everything that a step reads still what was written there (:mod:`lean_mnist.memory`)?

Between two updates nobody writes weights or the optimizer's state: an update leaves checksums of both, and the next
one is made only if they hold, and those of the step's gradient and batch. Labels are compared before the step is
computed, as one that is no class would end the program.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lean_mnist.data.watch import BatchWatch, first_of
from lean_mnist.errors import GradientMismatch, HealthError, MemoryFault
from lean_mnist.memory import Checksum
from lean_mnist.nn.parameters import FlatParameters, ParameterSlot
from lean_mnist.nn.step import Batch, Step, StepEngine, StepResult
from lean_mnist.nn.update import Update
from lean_mnist.training.config.schedules import is_power_of_ten
from lean_mnist.training.hooks.step import FailurePolicy, Hook, StepHooks
from lean_mnist.training.sinks.records import Notice, Record
from lean_mnist.training.state import RunState

FROM_SOURCE = 50  # one step in so many has its batch made from its images once more


class _Resting(NamedTuple):
    """A tensor that stays as it is between updates; ``what`` stands before the name of a parameter in messages."""

    what: str
    tensor: Tensor
    layout: Sequence[ParameterSlot]  # none where it has no number for each parameter
    checksum: Checksum

    def difference(self) -> str:
        """What was changed, in words; empty if nothing was."""
        if self.checksum.holds():
            return ""
        places = [_place(self.layout, number) for number in self.checksum.changed()]
        return f"{self.what}{' to '.join(dict.fromkeys(places))} was changed in memory"


def _place(layout: Sequence[ParameterSlot], number: int) -> str:
    slot = next((slot for slot in reversed(layout) if slot.offset <= number), None)
    return "" if slot is None else f"{slot.name}[{', '.join(map(str, slot.where(number - slot.offset)))}]"


class MemoryGuard:
    """Gate, every step: batch, weights, optimizer's state and gradient are as they were written.

    ``watch`` gives the checksums of the present batches; ``fixed`` are parameters, by the word for them, that do not
    move. ``policy`` says what becomes of a step that fails; the run is one of ``command``.
    """

    def __init__(
        self,
        parameters: FlatParameters[Any],
        watch: Callable[[], BatchWatch],
        state: RunState,
        policy: FailurePolicy,
        command: str,
        fixed: Sequence[tuple[str, FlatParameters[Any]]] = (),
    ) -> None:
        self._parameters, self._watch, self._state, self._policy, self._fixed = parameters, watch, state, policy, fixed
        watch()  # takes its checksums
        self._advice = "; a fault of the memory, or of another program"
        if policy.config is not None:
            last = Path(policy.config.checkpoints_dir, policy.config.run_name or "")
            self._advice += f"; to go on from the last checkpoint: python -m {command} --resume {last}"
        gradient = parameters.gradient
        self._gradient = _Resting("the gradient of ", gradient, parameters.layout, Checksum(gradient))
        self._update: Update | None = None
        self._resting: list[_Resting] = []
        self._of_labels: list[str] = []  # what was found before the present step

    def due(self, step: int) -> bool:
        """Every step."""
        return True

    def engine(self, engine: StepEngine, update: Update, stop_requested: Callable[[], bool]) -> StepEngine:
        """An engine whose batches and gradients are looked at before and after ``engine`` computes its steps.

        From now on ``update`` leaves checksums behind.
        """
        self._update, update.moved = update, self._note
        self._note()

        def compute(batches: Sequence[Batch]) -> StepResult:
            self._before_step(batches)
            result = engine.step(batches)
            self._gradient.checksum.note()
            return result

        return StepEngine(compute, update, stop_requested)

    def guarded(self, hooks: StepHooks) -> StepHooks:
        """These hooks with this gate the last; where another refuses and memory was changed, that is what is said."""
        gates: list[Hook] = [*(_Explained(gate, self) for gate in hooks.gates), self]
        return dataclasses.replace(hooks, health=_Explained(hooks.health, self), gates=gates, at_rest=self._at_rest)

    def _before_step(self, batches: Sequence[Batch]) -> None:
        started, watch = time.perf_counter(), self._watch()
        found = [one for one in map(watch.before_use, batches) if one]
        self._policy.summary.seconds += time.perf_counter() - started
        # With --on-divergence warn the step is taken all the same, if it can be.
        if found and (self._policy.stop or label_of_no_class(self._parameters, batches)):
            raise self.fault(self._state.step + 1, found)
        self._of_labels.extend(found)

    def on_gradients(self, step: Step) -> Iterator[Record]:
        """A warning, or none; raises ``MemoryFault``."""
        started = time.perf_counter()
        found = [*self._of_labels, *self.differences(step.batches, from_source=self._state.step % FROM_SOURCE == 0)]
        self._of_labels.clear()
        self._policy.summary.seconds += time.perf_counter() - started
        yield from self._refuse(step.number, found)

    def _at_rest(self) -> Iterator[Record]:
        yield from self._refuse(self._state.step, [one for one in map(_Resting.difference, self._resting) if one])

    def differences(self, batches: Sequence[Batch], *, from_source: bool = True) -> list[str]:
        """What is not as it was written, of weights, optimizer's state, gradient and features of ``batches``."""
        watch, resting = self._watch(), (*self._resting, self._gradient)
        of_batches = [watch.after_use(batch, from_source=from_source) for batch in batches]
        return [found for found in (*map(_Resting.difference, resting), *of_batches) if found]

    def fault(self, step: int, found: Sequence[str]) -> MemoryFault:
        """Count this, and make the error that says so."""
        self._policy.summary.add_failure(step, first_of(found))
        return MemoryFault(f"step {step}: {first_of(found)}; nothing was applied{self._advice}")

    def _refuse(self, step: int, found: Sequence[str]) -> Iterator[Record]:
        if not found:
            return
        if self._policy.stop:
            raise self.fault(step, found)
        self.fault(step, found)
        self._note()
        if is_power_of_ten(self._policy.summary.failures):
            yield Notice(step, "memory/warning", first_of(found))

    def _note(self) -> None:
        """Take weights and optimizer's state as they are now."""
        tensors = list(self._tensors())
        if [tensor.data_ptr() for _, tensor, _ in tensors] == [one.tensor.data_ptr() for one in self._resting]:
            for one in self._resting:
                one.checksum.note()
        else:
            self._resting = [_Resting(what, tensor, layout, Checksum(tensor)) for what, tensor, layout in tensors]

    def _tensors(self) -> Iterator[tuple[str, Tensor, Sequence[ParameterSlot]]]:
        assert self._update is not None
        flat = self._parameters
        yield "", flat.vector.data, flat.layout
        if flat.rounded is not None:
            yield "the rounded copy of ", flat.rounded, flat.layout
        for what, fixed in self._fixed:
            yield what, fixed.vector.data, fixed.layout
        for values in self._update.optimizer.state.values():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    whole = value.shape == flat.vector.shape
                    yield f"the optimizer's {name}{' of ' * whole}", value, flat.layout if whole else ()


def label_of_no_class(parameters: FlatParameters[Any], batches: Sequence[Batch]) -> str:
    """Describes the first label in ``batches`` that is none of the classes; empty if all are."""
    classes = parameters.network.sizes[-1]
    for _, labels in batches:
        wrong = labels[(labels < 0) | (labels >= classes)]
        if len(wrong):
            return f"a label is {int(wrong[0])}, expected 0 to {classes - 1}"
    return ""


class _Explained:
    """A gate whose refusals are laid to the memory where something there was changed."""

    def __init__(self, hook: Hook, guard: MemoryGuard) -> None:
        self._hook, self._guard, self.due = hook, guard, hook.due

    def on_gradients(self, step: Step) -> Iterator[Record]:
        """Those of the gate; raises what it raises, or ``MemoryFault``."""
        try:
            yield from self._hook.on_gradients(step)
        except (GradientMismatch, HealthError) as error:
            found = self._guard.differences(step.batches)
            if found:
                raise self._guard.fault(step.number, found) from error
            raise
