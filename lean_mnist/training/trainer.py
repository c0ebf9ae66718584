"""The loop: batches in, gradients by hand, hooks between gradients and optimizer, an evaluation an epoch."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from lean_mnist.data.batches import Batch
from lean_mnist.errors import LeanMnistError
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.nn.step import RING_DEPTH, StepTape
from lean_mnist.nn.update import Optimizer, Update
from lean_mnist.training.bursts import Bursts, Capture, CapturedSteps, PlayedSteps
from lean_mnist.training.config import Config
from lean_mnist.training.distributed import Share, World
from lean_mnist.training.gradients import StepGradients
from lean_mnist.training.hooks import HealthHook, Hook, Step
from lean_mnist.training.metrics import Evaluation
from lean_mnist.training.records import Epoch, Notice, Record, Scalar, Text
from lean_mnist.training.schedules import LearningRate
from lean_mnist.training.state import Best, CheckLedger, RunState


class BatchSource(Protocol):
    """Where batches come from; ``chunks`` is a pure function of its arguments, so that a run can resume anywhere.

    ``stays`` says that batches come in the same few places in memory again and again (see ``Batches``).
    """

    stays: bool

    def chunks(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """Batches of an epoch, from batch ``start`` on, some at a time; of several processes, each one's part."""

    def examples_in(self, batch: int) -> int:
        """How many examples all parts of batch ``batch`` have together."""


class Trainer:
    """Trains ``model`` from where ``state`` stands until the last epoch, early stopping, or a request to stop.

    Args:
        parameters: those of ``model``, flat; what ``optimizer`` moves.
        hooks: what records the steps; of several processes only the writer's do, after the gradients are summed.
        gates: what keeps gradients from the weights, each process its own; after the hooks where there is one process,
            because what is recorded of a step that is refused is what a person needs to see.
        emit: takes records.
        evaluate: the model on the validation split, and on the test split only where every epoch is to look at it.
        save: writes the present state as ``"best"`` or ``"last"``.
        stop_requested: asked at every step; true ends training with the state saved.
        trace: keep what each step computes on its way, for hooks that look at it.
        world: the processes that train together.
        checks: what this process's gates find; ``state.checks`` if not given.
        capture: how to take several steps in one, where no hook but ``HealthHook`` is to look at them; one after the
            other if not given. Needs an ``SGD`` of ours, and batches that stay in their places.
    """

    def __init__(
        self,
        *,
        config: Config,
        model: MLP,
        parameters: FlatParameters[MLP],
        optimizer: Optimizer,
        learning_rate: LearningRate,
        batches: BatchSource,
        hooks: Sequence[Hook],
        state: RunState,
        emit: Callable[[Record], None],
        evaluate: Callable[[str], Evaluation],
        save: Callable[[str], None],
        stop_requested: Callable[[], bool],
        trace: bool = False,
        gates: Sequence[Hook] = (),
        world: World | None = None,
        checks: CheckLedger | None = None,
        capture: Capture | None = None,
    ) -> None:
        self._config, self._model = config, model
        self._learning_rate, self._batches, self._hooks, self._state = learning_rate, batches, hooks, state
        self._emit, self._evaluate, self._save, self._stop_requested = emit, evaluate, save, stop_requested
        self._gradients = StepGradients(model, parameters, traced=trace, replay=batches.stays)
        self._parameters = parameters
        self._gates, self._world = gates, world or World()
        self._own_checks = state.checks if checks is None else checks
        self._batch_by_batch = self._world.size == 1 and config.accumulate == 1
        self._curious = [hook for hook in (*hooks, *gates) if not isinstance(hook, HealthHook)]
        self._update = Update(model, optimizer, config.clip_norm, parameters)
        self._bursts: Bursts = PlayedSteps(self._gradients, self._update, stop_requested)
        if capture is not None:
            self._bursts = CapturedSteps(self._gradients, self._update, stop_requested, capture)
        # What the last calls computed, for the diagnosis of a step that fails; it is there anyway, and kept for longer.
        self._past: deque[StepTape] = deque(maxlen=RING_DEPTH)

    def fit(self) -> bool:
        """Train; returns whether training ended (``state.finished`` says why), rather than being asked to stop."""
        state = self._state
        while not state.finished:
            started, examples_before = time.perf_counter(), state.epoch_examples
            seconds_before = state.seconds
            for updates in self._updates():
                stop = self._take(updates)
                state.seconds = seconds_before + time.perf_counter() - started
                if stop:
                    self._compare_notes()
                    self._save("last")
                    return False
            speed = (state.epoch_examples - examples_before) / max(1e-9, time.perf_counter() - started)
            self._end_epoch(speed)
            state.seconds = seconds_before + time.perf_counter() - started
            self._save("last")
        return True

    def _updates(self) -> Iterator[list[list[Batch]]]:
        """What is left of the epoch: the batches of each update, as many updates together as can be taken in one."""
        chunks = self._batches.chunks(self._state.epoch, self._state.batch)
        if self._batch_by_batch:
            return ([[batch] for batch in chunk] for chunk in chunks)
        return ([group] for group in _groups(itertools.chain.from_iterable(chunks), self._config.accumulate))

    def _take(self, updates: list[list[Batch]]) -> bool:
        """Make these updates, or the first of them; returns whether the last one made was asked to be the last."""
        state = self._state
        if self._batch_by_batch and not any(map(self._due, range(state.step + 1, state.step + 1 + len(updates)))):
            batches = [batch for group in updates for batch in group]
            rates = [self._learning_rate(state.step + i) for i in range(len(batches))]
            burst = self._bursts(batches, rates)
            for batch, loss in zip(batches, burst.losses, strict=False):
                self._count(1, len(batch[1]), loss)
            for tapes in burst.traces[-RING_DEPTH:]:
                self._past.extend(tapes)
            if burst.stop:
                return True
            updates = updates[len(burst.losses) :]  # the first of them is not finite, and the hooks will say why
        return any(self._step(batches) for batches in updates)

    def _due(self, step: int) -> bool:
        """Whether a hook is to look at this step for more than what every step is looked at for."""
        return any(hook.due(step) for hook in self._curious)

    def _count(self, batches: int, examples: int, loss: float) -> None:
        state = self._state
        state.step += 1
        state.batch += batches
        state.examples += examples
        state.epoch_examples += examples
        state.epoch_loss_sum += loss * examples

    def _step(self, batches: list[Batch]) -> bool:
        """One update; returns whether it was asked to be the last."""
        state, alone = self._state, self._world.size == 1
        rate = self._learning_rate(state.step)
        share = self._share(batches)
        used, loss, tapes = self._gradients(batches if alone else [batch for batch in batches if len(batch[1])])
        gradient = self._parameters.gradient
        step = Step(state.step + 1, self._model, used, loss, gradient, rate, tapes, tuple(self._past))
        if alone:
            self._look(self._hooks, step)
            self._look(self._gates, step)
            stop = self._stop_requested()
        else:
            step, stop = self._reduce(step, share)
        self._update.apply(rate)
        self._past.extend(tapes)

        self._count(len(batches), share.total, step.loss_value)
        return stop

    def _share(self, batches: list[Batch]) -> Share:
        """How many examples of this step are in ``batches``, and how many all processes have together."""
        own = sum(len(labels) for _, labels in batches)
        if self._world.size == 1:
            return Share(0, own, own)
        first = self._state.batch
        return Share(0, own, sum(map(self._batches.examples_in, range(first, first + len(batches)))))

    def _look(self, hooks: Sequence[Hook], step: Step, said_by: str = "") -> None:
        for hook in hooks:
            if hook.due(step.number):
                for record in hook.on_gradients(step):
                    if said_by and isinstance(record, Notice):
                        record = dataclasses.replace(record, value=said_by + record.value)
                    self._emit(record)

    def _reduce(self, step: Step, share: Share) -> tuple[Step, bool]:
        """Of several processes: each checks its gradient, then all use their mean; the step that they take together.

        And whether any was asked to stop.
        """
        world, refusal = self._world, None
        world.declare(step.gradient, step.number)
        if share.examples:
            try:
                self._look(self._gates, step, f"rank {world.rank}: ")
            except LeanMnistError as error:
                refusal = error
        stop = self._stop_requested()
        loss, stop = world.reduce(step.gradient, step.loss, share, step=step.number, refusal=refusal, stop=stop)
        step = dataclasses.replace(step, loss=loss)
        if world.is_writer:
            self._look(self._hooks, step)
        return step, stop

    def _compare_notes(self) -> None:
        """Put together what the processes' checks have found, so that all decide alike, from the same weights."""
        state = self._state
        self._world.same_weights(self._parameters.vector, state.step)
        state.checks = state.checks.merged(self._world.gather(self._own_checks))

    def _end_epoch(self, speed: float) -> None:
        state, config = self._state, self._config
        self._compare_notes()
        train_loss = state.epoch_loss_sum / state.epoch_examples
        state.epoch, state.batch, state.epoch_loss_sum, state.epoch_examples = state.epoch + 1, 0, 0.0, 0
        validation = self._evaluate("validation")
        for name, value in (
            ("train/epoch_loss", train_loss),
            ("validation/loss", validation.loss),
            ("validation/accuracy", validation.accuracy),
            *zip(("validation/accuracy_low", "validation/accuracy_high"), validation.interval, strict=True),
            ("throughput/examples_per_second", speed),
        ):
            self._emit(Scalar(state.step, name, value))
        if config.track_test:
            test = self._evaluate("test")
            self._emit(Scalar(state.step, "test/accuracy", test.accuracy))
            self._emit(Scalar(state.step, "test/loss", test.loss))
        self._select(validation)
        self._emit(
            Epoch(state.step, "epoch", {
                "epoch": state.epoch,
                "train_loss": train_loss,
                "validation_loss": validation.loss,
                "validation_accuracy": validation.accuracy,
                "divergence": state.checks.largest_divergence,
            })
        )  # fmt: skip
        if state.epoch >= config.epochs:
            state.finished = f"all {config.epochs} epochs done"
        elif config.early_stopping is not None and state.epochs_without_improvement >= config.early_stopping:
            state.finished = f"no better validation accuracy in {state.epochs_without_improvement} epochs"

    def _select(self, validation: Evaluation) -> None:
        """Call the present weights the best if they are, by validation accuracy, ties by loss, and the checks allow."""
        state, best = self._state, self._state.best
        improved = validation.accuracy > state.best_accuracy
        state.epochs_without_improvement = 0 if improved else state.epochs_without_improvement + 1
        state.best_accuracy = max(state.best_accuracy, validation.accuracy)
        if best is not None and (validation.correct, -validation.loss) <= (best.correct, -best.loss):
            return
        if state.checks.verdict == "failed":
            reason = f"not selected: a gradient check failed ({state.checks.first_failure})"
            self._emit(Text(state.step, "checkpoint/selection", f"step {state.step}: {reason}"))
            return
        what = "accuracy" if best is None or validation.correct > best.correct else "loss at equal accuracy"
        state.best = Best(state.step, state.epoch, validation.correct, validation.examples, validation.loss)
        self._save("best")
        self._emit(Scalar(state.step, "checkpoint/best_accuracy", validation.accuracy))
        self._emit(Scalar(state.step, "checkpoint/best_step", state.step))
        reason = f"best validation {what} so far; gradient checks {state.checks.verdict}"
        text = f"step {state.step}, epoch {state.epoch}: validation accuracy {validation.accuracy:.4%}, {reason}"
        self._emit(Text(state.step, "checkpoint/selection", text))


def _groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
