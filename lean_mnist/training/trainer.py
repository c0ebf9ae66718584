"""The loop: batches in, gradients by hand, hooks between gradients and optimizer, an evaluation an epoch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from lean_mnist.crosscheck.steps.record import REMEMBERED, Call
from lean_mnist.crosscheck.steps.recorded import calls_of
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.training.config import Config
from lean_mnist.training.gradients import StepGradients
from lean_mnist.training.hooks import Hook, Step
from lean_mnist.training.metrics import Evaluation
from lean_mnist.training.optimizers import Optimizer, set_learning_rate
from lean_mnist.training.records import Epoch, Record, Scalar, Text
from lean_mnist.training.schedules import LearningRate
from lean_mnist.training.state import Best, RunState

Batch = tuple[Tensor, Tensor]


class BatchSource(Protocol):
    """Where batches come from; ``epoch`` is a pure function of its arguments, so that a run can resume anywhere."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of an epoch, from batch ``start`` on."""


class Trainer:
    """Trains ``model`` from where ``state`` stands until the last epoch, early stopping, or a request to stop.

    Args:
        parameters: those of ``model``, flat; what ``optimizer`` moves.
        emit: takes records.
        evaluate: the model on the validation split, and on the test split only where every epoch is to look at it.
        save: writes the present state as ``"best"`` or ``"last"``.
        stop_requested: asked after every step; true ends training with the state saved.
        trace: keep what each step computes on its way, for hooks that look at it.
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
    ) -> None:
        self._config, self._model, self._optimizer = config, model, optimizer
        self._learning_rate, self._batches, self._hooks, self._state = learning_rate, batches, hooks, state
        self._emit, self._evaluate, self._save, self._stop_requested = emit, evaluate, save, stop_requested
        self._gradients = StepGradients(model, parameters, traced=trace, replay=config.replay)
        self._parameters = parameters
        # What the last calls computed, for the diagnosis of a step that fails; it is there anyway, and kept for longer.
        self._past: deque[Call] = deque(maxlen=REMEMBERED)

    def fit(self) -> bool:
        """Train; returns whether training ended (``state.finished`` says why), rather than being asked to stop."""
        state = self._state
        while not state.finished:
            started, examples_before = time.perf_counter(), state.epoch_examples
            seconds_before = state.seconds
            for batches in _groups(self._batches.epoch(state.epoch, state.batch), self._config.accumulate):
                self._step(batches)
                state.seconds = seconds_before + time.perf_counter() - started
                if self._stop_requested():
                    self._save("last")
                    return False
            speed = (state.epoch_examples - examples_before) / max(1e-9, time.perf_counter() - started)
            self._end_epoch(speed)
            state.seconds = seconds_before + time.perf_counter() - started
            self._save("last")
        return True

    def _step(self, batches: list[Batch]) -> None:
        state = self._state
        rate = self._learning_rate(state.step)
        batches, loss, traces = self._gradients(batches)
        gradient = self._parameters.gradient
        step = Step(state.step + 1, self._model, batches, loss, gradient, rate, traces, tuple(self._past))
        for hook in self._hooks:
            if hook.due(step.number):
                for record in hook.on_gradients(step):
                    self._emit(record)
        if self._config.clip_norm is not None:
            clip_grads_with_norm_([self._parameters.vector], self._config.clip_norm, step.gradient_norm)
        set_learning_rate(self._optimizer, rate)
        self._optimizer.step()
        self._parameters.spread()
        self._past.extend(calls_of(batches, traces) if traces else ())

        examples = sum(len(labels) for _, labels in batches)
        state.step += 1
        state.batch += len(batches)
        state.examples += examples
        state.epoch_examples += examples
        state.epoch_loss_sum += float(loss) * examples

    def _end_epoch(self, speed: float) -> None:
        state, config = self._state, self._config
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
