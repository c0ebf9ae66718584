"""One update after the other: gradients, hooks and gates, exchange between processes, the update itself."""

import contextlib
import dataclasses
import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from lean_mnist.data.batches import Batch, PlannedBatches, sizes_of
from lean_mnist.errors import LeanMnistError, MemoryFault, memory_for
from lean_mnist.nn.step import RING_DEPTH, HeldStep, Step, StepResult, StepTape
from lean_mnist.nn.update import Update
from lean_mnist.training.distributed import World
from lean_mnist.training.hooks.memory import label_of_no_class
from lean_mnist.training.hooks.step import Hook, StepHooks
from lean_mnist.training.objectives.protocol import Objective
from lean_mnist.training.sinks.records import Notice, Record
from lean_mnist.training.state import RunState

ROLLBACK_FACTOR = 0.1  # of the learning rate, after each return to an earlier state because training had diverged
_TRANSIENT = "loss or gradient was not finite, and is when the step is computed again: a transient fault, not applied"


@dataclass
class Steps:
    """Makes the updates of a run, each in the order gradients → observers → gates → update."""

    objective: Objective
    update: Update
    hooks: StepHooks
    state: RunState  # position of the run; goes along
    emit: Callable[[Record], None]  # takes records
    save: Callable[[str], None]  # writes the present state as "best" or "last", on the writer
    stop_requested: Callable[[], bool]  # whether somebody asked the run to stop; asked after every step
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        self._engine = self.objective.engine(self.update, self.stop_requested)
        self._keeps_tapes = self.objective.config.check != "off"
        # For the diagnosis of a step that fails: they are there anyway, and kept for longer.
        self._past: deque[StepTape] = deque(maxlen=RING_DEPTH)
        self._told = False  # that the engine refused
        self._prefix = "" if self.world.size == 1 else f"rank {self.world.rank}: "

    def take_chunk(self, batches: Sequence[Batch]) -> bool:
        """Make one update a batch; several in a row where no hook must look at them.

        Returns whether somebody asked to stop after the last update that was made.
        """
        state, position, engine = self.state, 0, self._engine
        while position < len(batches):
            first = state.step + 1
            free = self.hooks.steps_until_due(first, len(batches) - position, engine.screens)
            hold = engine.hot and position + free < len(batches) and self.hooks.is_only_observed(first + free)
            not_finite = False
            if free + hold:
                some = batches[position : position + free + hold]
                rates = [self._learning_rate(state.step + i) for i in range(free + hold)]
                with self._labels(some):
                    chunk = engine.chunk(some, rates, first, hold=hold)
                for examples, loss in zip(sizes_of(some), chunk.losses, strict=False):
                    state.count(1, examples, loss)
                for tapes in chunk.tapes[-RING_DEPTH:] if self._keeps_tapes else ():
                    self._past.extend(tapes)
                position += len(chunk.losses)
                if chunk.stopped:
                    return True
                if position == len(batches):
                    break
                if chunk.held is not None:
                    assert isinstance(batches, PlannedBatches)
                    tape = chunk.held.tape
                    self.hooks.compare_held(tape.inputs[0], functools.partial(batches.features, position))
                    if self.take([(tape.inputs[0], tape.labels_B)], held=chunk.held):
                        return True
                    position += 1
                    continue
                not_finite = chunk.not_finite  # the gates will say why
            self._keep_past()
            if self.take([batches[position]], again=not_finite):
                return True
            position += 1
        return False

    def _keep_past(self) -> None:
        """Keep the tape of the latest step for a gate, before the next batch is made in its memory."""
        if self._keeps_tapes and any(gate.due(self.state.step + 1) for gate in self.hooks.gates):
            self._past = deque(self._engine.kept_tapes() if self._engine.hot else self._past, RING_DEPTH)

    def take(self, batches: list[Batch], again: bool = False, held: HeldStep | None = None) -> bool:
        """Make one update by the mean gradient of these batches; returns whether somebody asked to stop after it.

        A step that is not finite is computed once more; ``again`` says that it was computed, and was not, before.
        One that is ``held`` is neither computed nor asked whether it is finite.
        """
        state, world = self.state, self.world
        examples = self._examples(batches)
        used = batches if world.size == 1 else [batch for batch in batches if len(batch[1])]
        if world.size == 1:
            step = self._computed(used, again) if held is None else self._held(held, used)
            self._look(self.hooks.observers, step)
            self._look_through_gates(step, finite=held is not None)
            stop = self.stop_requested()
        else:
            step, stop = self._reduce(used, sum(len(labels) for _, labels in batches), examples)
        self._engine.update(step.learning_rate)
        if not self._engine.hot:
            self._past.extend(step.tapes)
        state.count(len(batches), examples, step.loss_value)
        return stop

    def _computed(self, batches: list[Batch], again: bool = False) -> Step:
        """The next step, its gradient computed and not yet applied; twice where it is not finite the first time."""
        with self._labels(batches):
            step = self._compute(batches)
            if batches and not (step.is_finite or again):
                again, step = True, self._compute(batches)
        if again and step.is_finite:
            self.hooks.checks.transient += 1
            self.emit(Notice(step.number, "health/transient", self._prefix + _TRANSIENT))
        if self._engine.refused and not self._told:
            self._told = True
            self.emit(Notice(step.number, "engine/refused", self._prefix + self._engine.refused))
        return step

    @contextlib.contextmanager
    def _labels(self, batches: Sequence[Batch]) -> Iterator[None]:
        """Raises ``MemoryFault`` where a step cannot be computed because a label is no class; the data had none."""
        try:
            yield
        except (IndexError, RuntimeError) as error:
            found = label_of_no_class(self.objective.parameters, batches)
            if found:
                raise MemoryFault(f"after step {self.state.step}: {found}: it was changed in memory") from error
            raise

    def _compute(self, batches: list[Batch]) -> Step:
        self.hooks.before(batches)
        return self._step(self._engine.step(batches), batches)

    def _step(self, result: StepResult, batches: list[Batch]) -> Step:
        flat, tapes, rate = self.objective.parameters, result.tapes, self._learning_rate(self.state.step)
        tapes, past = tapes if self._keeps_tapes else [], tuple(self._past)
        number, norms = self.state.step + 1, self._engine.norms
        return Step(number, flat.network, batches, result.loss, flat.gradient, rate, tapes, past, norms_by=norms)

    def _held(self, held: HeldStep, batches: list[Batch]) -> Step:
        step = self._step(StepResult(held.loss, [], [held.tape]), batches)
        if self.hooks.every_step:  # one of them compares the sum with what it is now
            step.gradient_sum = float(step.gradient.sum())
        return step

    def _learning_rate(self, step: int) -> float:
        """Of step ``step``, counted from 0: that of the schedule, lower by ``ROLLBACK_FACTOR`` for each rollback."""
        return self.objective.learning_rate(step) * ROLLBACK_FACTOR**self.state.rollbacks

    def _examples(self, batches: list[Batch]) -> int:
        """Examples of this step that all processes have together."""
        if self.world.size == 1:
            return sum(labels.shape[0] for _, labels in batches)  # len() takes as long as a small kernel
        size, first = self.objective.config.batch_size, self.state.batch
        return min(size * len(batches), len(self.objective.batches.split) - size * first)

    def _look_through_gates(self, step: Step, *, finite: bool = False) -> None:
        self._look((*[self.hooks.health] * (not finite), *self.hooks.gates), step)
        self._look(self.hooks.every_step, step, always=True)

    def _look(self, hooks: Sequence[Hook], step: Step, *, always: bool = False) -> None:
        for hook in hooks:
            if always or hook.due(step.number):
                with memory_for(lambda: f"checking the gradients of step {step.number}"):
                    for record in hook.on_gradients(step):
                        if self._prefix and isinstance(record, Notice):
                            record = dataclasses.replace(record, value=self._prefix + record.value)
                        self.emit(record)

    def _reduce(self, batches: list[Batch], examples: int, total: int) -> tuple[Step, bool]:
        """With several processes: each computes and checks its own gradient, then all replace it by the mean of all.

        Returns the step with the loss of all, and whether any process was asked to stop.
        """
        world, refusal = self.world, None
        nothing = self.objective.parameters.gradient.new_tensor(math.nan)
        step = self._step(StepResult(nothing, [], []), batches)
        try:
            with memory_for(lambda: f"computing step {step.number}"):
                step = self._computed(batches)
        except LeanMnistError as error:  # said to all below
            refusal = error
        world.snapshot(step.gradient, step.number)
        if examples and refusal is None:
            try:
                self._look_through_gates(step)
            except LeanMnistError as error:
                refusal = error
        stop = self.stop_requested()
        loss, stop = world.reduce(
            step.gradient, step.loss, examples, total, step=step.number, refusal=refusal, stop=stop
        )
        step = dataclasses.replace(step, loss=loss)
        if world.is_writer:
            self._look(self.hooks.observers, step)
        return step, stop
