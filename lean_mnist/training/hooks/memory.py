"""Hook: is everything that a step reads still what was written there (:mod:`lean_mnist.memory`)?

Between two updates nobody writes weights or the optimizer's state: an update leaves checksums of both, and the next
one is made only if they hold, and if the gradient still has the sum that it had before it was checked. A batch is
compared before its step is computed, as a label that is no class would end the program.
"""

import dataclasses
import math
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lean_mnist.data.watch import NOT_ITS_IMAGES, BatchWatch, first_of, same_bits
from lean_mnist.errors import GradientMismatch, HealthError, MemoryFault
from lean_mnist.invocation import typed
from lean_mnist.memory import Checksum
from lean_mnist.nn.engine.structures import BLOCK
from lean_mnist.nn.parameters import FlatParameters, ParameterSlot, place_of
from lean_mnist.nn.step import Batch, Step
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
        """The change, in words; empty if nothing was."""
        if self.checksum.holds():
            return ""
        places = [place_of(self.layout, number) for number in self.checksum.changed()] if self.layout else []
        return f"{self.what}{' to '.join(dict.fromkeys(places))} was changed in memory"


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
            again = typed(f"python -m {command}", "--resume", last)
            self._advice += f"; to go on from the last checkpoint: {again}"
        self._update: Update | None = None
        self._resting: list[_Resting] = []
        self._state_tensors: list[Any] = [None]  # of the optimizer, when they were last looked for
        self._of_batches: list[str] = []  # what was found in those of the present step
        self._warnings: list[Record] = []  # not yet told
        self.in_engine = False  # whether the engine compares in its chunks, by sums of its own, and this between them

    def due(self, step: int) -> bool:
        """Every step, where the engine does not compare in its chunks."""
        return not self.in_engine

    def watch(self, update: Update) -> None:
        """From now on ``update`` leaves checksums behind."""
        self._update, update.moved = update, self._note
        self._note()

    def guarded(self, hooks: StepHooks) -> StepHooks:
        """These hooks with this gate the last; where another refuses and memory was changed, that is what is said."""
        gates, every_step = ([_Explained(gate, self) for gate in some] for some in (hooks.gates, hooks.every_step))
        return dataclasses.replace(
            hooks, health=_Explained(hooks.health, self), gates=gates, every_step=[*every_step, self],
            before=self._compare_batches, compare_held=self._compare_held, at_rest=self._at_rest,
        )  # fmt: skip

    def on_gradients(self, step: Step) -> Iterable[Record]:
        """Warnings of this step and of the chunk before it; raises ``MemoryFault``."""
        started = time.perf_counter()
        found, self._of_batches = [*self._of_batches, *self._differences(step)], []
        self._policy.summary.seconds += time.perf_counter() - started
        return self._warned(step.number, found)

    def _at_rest(self) -> Iterable[Record]:
        return self._warned(self._state.step, self._differences_at_rest())

    def _compare_batches(self, batches: Sequence[Batch], ahead: int = 0) -> None:
        """Those of the step after the next ``ahead`` ones."""
        step, started = self._state.step + 1 + ahead, time.perf_counter()
        found = self._of(batches, step % FROM_SOURCE == 0)
        self._policy.summary.seconds += time.perf_counter() - started
        # With --on-divergence warn the step is taken all the same, if it can be.
        if found and (self._policy.stop or label_of_no_class(self._parameters, batches)):
            raise self.fault(step, found)
        self._of_batches += found

    def _compare_held(self, features: Tensor, again: Callable[[], Tensor]) -> None:
        step, started = self._state.step + 1, time.perf_counter()
        # The engine has compared them with their sums.
        found = [NOT_ITS_IMAGES] * (step % FROM_SOURCE == 0 and not same_bits(features, again()))
        self._policy.summary.seconds += time.perf_counter() - started
        if found and self._policy.stop:
            raise self.fault(step, found)
        self._of_batches += found

    def _of(self, batches: Sequence[Batch], from_source: bool) -> list[str]:
        watch = self._watch()
        return [found for batch in batches if (found := watch.difference(batch, from_source=from_source))]

    def _differences(self, step: Step) -> list[str]:
        found, now, then = [], float(step.gradient.sum()), step.gradient_sum
        if now != then and not (math.isnan(now) and math.isnan(then)):
            found.append(f"the gradient was changed in memory: the sum of its numbers was {then:.9g} and is {now:.9g}")
        return [*found, *self._differences_at_rest()]

    def _differences_at_rest(self) -> list[str]:
        # The weights are the last to be compared and the first to be noted, as near as can be to their update.
        return [found for found in map(_Resting.difference, reversed(self._resting)) if found]

    def cause(self, step: Step) -> MemoryFault | None:
        """Changes in memory, where they may be why a gate refuses ``step``."""
        found = [*self._differences(step), *self._of(step.batches, True)]
        return self.fault(step.number, found) if found else None

    def compare_at_rest(self, step: int) -> None:
        """Before a chunk from number ``step`` on; raises ``MemoryFault``."""
        if found := self._differences_at_rest():
            self._count_or_raise(step, found)

    def compare_chunk(self, batches: Sequence[Batch]) -> None:
        """Before a chunk of steps of these batches that a graph takes; raises ``MemoryFault``."""
        self.compare_at_rest(self._state.step + 1)
        for ahead, batch in enumerate(batches):
            self._compare_batches([batch], ahead)

    @property
    def checksums(self) -> list[Checksum]:
        """Of weights and optimizer's state."""
        return [one.checksum for one in self._resting]

    def blame(self, step: int, block: int) -> None:
        """The engine found a block of parameters, or of momentum after them, changed; raises ``MemoryFault``."""
        flat, blocks = self._parameters, -(-len(self._parameters.vector) // BLOCK)
        first = block % blocks * BLOCK
        last = min(first + BLOCK, len(flat.vector)) - 1
        what = "" if block < blocks else "the optimizer's momentum_buffer of "
        places = dict.fromkeys(place_of(flat.layout, number) for number in (first, last))
        self._count_or_raise(step, [f"{what}{' to '.join(places)} was changed in memory"])

    def fault(self, step: int, found: Sequence[str]) -> MemoryFault:
        """Count this, and make the error that says so."""
        self._policy.summary.add_failure(step, first_of(found))
        return MemoryFault(f"step {step}: {first_of(found)}; nothing was applied{self._advice}")

    def _warned(self, step: int, found: Sequence[str]) -> Iterable[Record]:
        if found:
            self._count_or_raise(step, found)
        warnings, self._warnings = self._warnings, []
        return warnings

    def _count_or_raise(self, step: int, found: Sequence[str]) -> None:
        error = self.fault(step, found)
        if self._policy.stop:
            raise error
        if is_power_of_ten(self._policy.summary.failures):
            self._warnings.append(Notice(step, "memory/warning", first_of(found)))
        self._note()

    def _note(self) -> None:
        """Take weights and optimizer's state as they are now."""
        assert self._update is not None
        state = [tensor for values in self._update.optimizer.state.values() for tensor in values.values()]
        if len(state) == len(self._state_tensors) and all(map(operator.is_, state, self._state_tensors)):
            for one in self._resting:
                one.checksum.note()
        else:
            self._state_tensors, tensors = state, self._tensors()
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
            cause = self._guard.cause(step)
            if cause is not None:
                raise cause from error
            raise
