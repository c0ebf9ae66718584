"""The training loop: batches in, updates, an evaluation an epoch, until the last epoch or a request to stop."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lean_mnist.data.batches import Batch
from lean_mnist.errors import HealthError, memory_for
from lean_mnist.nn import FlatParameters
from lean_mnist.nn.parameters import place_of
from lean_mnist.training.evaluation.metrics import Evaluation
from lean_mnist.training.sinks.records import Epoch, Scalar, Text
from lean_mnist.training.state import Best, Verdict
from lean_mnist.training.steps import Steps

LARGEST_WEIGHT = 2.0**60  # as in the checker of certificates


class Trainer(Steps):
    """Trains from where ``state`` stands until the last epoch, early stopping, or a request to stop."""

    def fit(self) -> bool:
        """Train; returns whether training ended (``state.finished`` says why), rather than being asked to stop."""
        state = self.state
        if state.batch == 0 and not state.finished:
            self._save_for_rollback()
        while not state.finished:
            started, examples_before = time.perf_counter(), state.epoch_examples
            seconds_before = state.seconds
            take, groups = self._rest_of_epoch()
            for batches in groups:
                with memory_for(lambda: f"computing step {state.step + 1}"):
                    stop = take(batches)
                state.seconds = seconds_before + time.perf_counter() - started
                if stop:
                    self._synchronise()
                    self._keep("last")
                    return False
            speed = (state.epoch_examples - examples_before) / max(1e-9, time.perf_counter() - started)
            self._synchronise()
            self._end_epoch(speed)
            state.seconds = seconds_before + time.perf_counter() - started
            self._keep("last")
            self._save_for_rollback()
        return True

    def _save_for_rollback(self) -> None:
        if self.objective.config.on_nonfinite == "rollback" and not self.state.finished:
            self._keep("rollback")

    def _keep(self, which: str) -> None:
        """Save, unless what would be saved is not what the last update wrote."""
        for record in self.world.everywhere(lambda: list(self.hooks.at_rest())):
            self.emit(record)
        self.save(which)

    def _rest_of_epoch(self) -> tuple[Callable[[Any], bool], Iterable[Any]]:
        """The method that makes one update or several, and the batches to call it with, group by group."""
        state, accumulate = self.state, self.objective.config.accumulate
        chunks = self.objective.batches.chunks(state.epoch, state.batch)
        if self.world.size == 1 and accumulate == 1:
            return self.take_chunk, chunks
        return self.take, _groups(itertools.chain.from_iterable(chunks), accumulate)

    def _synchronise(self) -> None:
        """Merge the findings of all processes' checks, so that all decide alike, from weights that are the same.

        Raises ``HealthError`` where these are of no use, so that they are neither evaluated nor saved.
        """
        state, world, parameters = self.state, self.world, self.objective.parameters
        if world.size > 1:
            world.same_weights(parameters.vector, state.step)
        if place := _unusable(parameters):
            raise world.report_once(HealthError(f"step {state.step}: {place}; expected weights below 2^60"))
        state.checks = state.checks.merged(world.gather(self.hooks.checks))

    def _end_epoch(self, examples_per_second: float) -> None:
        """End the present epoch; sets ``state.finished`` where it was the last one."""
        state, config = self.state, self.objective.config
        train_loss = state.end_epoch()
        own = self.objective.epoch_values()
        values, validation = {"train/epoch_loss": train_loss}, self._evaluate("validation")
        if validation is not None:
            low, high = validation.interval
            values |= {"validation/loss": validation.loss, "validation/accuracy": validation.accuracy}
            values |= {"validation/accuracy_low": low, "validation/accuracy_high": high}
        values |= {"throughput/examples_per_second": examples_per_second, **own}
        test = self._evaluate("test") if config.track_test else None
        if test is not None:
            state.enter_test("track", test.errors)
            values |= {"test/accuracy": test.accuracy, "test/loss": test.loss}
        for name, value in values.items():
            self.emit(Scalar(state.step, name, value))
        shown = {"epoch": state.epoch, "train_loss": train_loss}
        if validation is not None:
            self._select(validation)
            shown |= {"validation_loss": validation.loss, "validation_accuracy": validation.accuracy}
        shown |= {name.rpartition("/")[2]: value for name, value in own.items()}
        self.emit(Epoch(state.step, "epoch", {**shown, "divergence": state.checks.largest_divergence}))
        if state.epoch >= config.epochs:
            state.finished = f"all {config.epochs} epochs done"
        elif config.early_stopping is not None and state.epochs_without_improvement >= config.early_stopping:
            state.finished = f"no better validation accuracy in {state.epochs_without_improvement} epochs"

    def _evaluate(self, split: str) -> Evaluation | None:
        """By the writer, which tells the others."""

        def evaluate() -> Evaluation | None:
            with memory_for(f"evaluating the {split} split after step {self.state.step}"):
                return self.objective.evaluate(split)

        return self.world.on_writer(evaluate)

    def _select(self, validation: Evaluation) -> None:
        """Save the present weights as the best, by validation accuracy, ties by loss, unless a check has failed."""
        state, best, emit = self.state, self.state.best, self.emit
        improved = validation.accuracy > state.best_accuracy
        state.epochs_without_improvement = 0 if improved else state.epochs_without_improvement + 1
        state.best_accuracy = max(state.best_accuracy, validation.accuracy)
        if best is not None and (validation.correct, -validation.loss) <= (best.correct, -best.loss):
            return
        verdict = state.checks.verdict
        if verdict is Verdict.FAILED:
            reason = f"not selected: a gradient check failed ({state.checks.first_failure})"
            emit(Text(state.step, "checkpoint/selection", f"step {state.step}: {reason}"))
            return
        what = "accuracy" if best is None or validation.correct > best.correct else "loss at equal accuracy"
        state.best = Best(state.step, state.epoch, validation.correct, validation.examples, validation.loss)
        self._keep("best")
        emit(Scalar(state.step, "checkpoint/best_accuracy", validation.accuracy))
        emit(Scalar(state.step, "checkpoint/best_step", state.step))
        reason = f"best validation {what} so far; gradient checks {verdict.value}"
        text = f"step {state.step}, epoch {state.epoch}: validation accuracy {validation.accuracy:.4%}, {reason}"
        emit(Text(state.step, "checkpoint/selection", text))


def _unusable(parameters: FlatParameters[Any]) -> str:
    """The first weight that no certificate takes and no arithmetic uses, with its value; empty if there is none."""
    vector = parameters.vector.detach()
    if float(vector.abs().max()) < LARGEST_WEIGHT:  # which NaN is not
        return ""
    place = int((vector.abs() < LARGEST_WEIGHT).logical_not().nonzero()[0])
    return f"{place_of(parameters.layout, place)} is {float(vector[place]):.6g}"


def _groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """``size`` batches at a time; the last group may have fewer."""
    batches = iter(batches)
    while group := list(itertools.islice(batches, size)):
        yield group
