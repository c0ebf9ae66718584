"""End of an epoch: evaluation, selection of the best checkpoint, early stopping."""

from __future__ import annotations

from lean_mnist.training.evaluation.metrics import Evaluation
from lean_mnist.training.objectives.protocol import Objective
from lean_mnist.training.sinks.records import Epoch, Scalar, Text
from lean_mnist.training.state import Best, RunState, Verdict
from lean_mnist.training.steps import Services


class EpochEnd:
    """Evaluates, selects and decides whether training is over, after every epoch."""

    def __init__(self, objective: Objective, state: RunState, services: Services) -> None:
        self._objective, self._state, self._services = objective, state, services

    def __call__(self, examples_per_second: float) -> None:
        """End the present epoch; sets ``state.finished`` where it was the last one."""
        state, config, emit = self._state, self._objective.config, self._services.emit
        train_loss = state.end_epoch()
        validation = self._services.evaluate("validation")
        emit(Scalar(state.step, "train/epoch_loss", train_loss))
        if validation is not None:
            emit(Scalar(state.step, "validation/loss", validation.loss))
            emit(Scalar(state.step, "validation/accuracy", validation.accuracy))
            for name, value in zip(("accuracy_low", "accuracy_high"), validation.interval, strict=True):
                emit(Scalar(state.step, f"validation/{name}", value))
        own = self._objective.epoch_values()
        for name, value in {"throughput/examples_per_second": examples_per_second, **own}.items():
            emit(Scalar(state.step, name, value))
        if config.track_test and (test := self._services.evaluate("test")) is not None:
            state.enter_test("track", test.errors)
            emit(Scalar(state.step, "test/accuracy", test.accuracy))
            emit(Scalar(state.step, "test/loss", test.loss))
        shown = {"epoch": state.epoch, "train_loss": train_loss}
        if validation is not None:
            self._select(validation)
            shown |= {"validation_loss": validation.loss, "validation_accuracy": validation.accuracy}
        shown |= {name.rpartition("/")[2]: value for name, value in own.items()}
        emit(Epoch(state.step, "epoch", {**shown, "divergence": state.checks.largest_divergence}))
        if state.epoch >= config.epochs:
            state.finished = f"all {config.epochs} epochs done"
        elif config.early_stopping is not None and state.epochs_without_improvement >= config.early_stopping:
            state.finished = f"no better validation accuracy in {state.epochs_without_improvement} epochs"

    def _select(self, validation: Evaluation) -> None:
        """Save the present weights as the best, by validation accuracy, ties by loss, unless a check has failed."""
        state, best, emit = self._state, self._state.best, self._services.emit
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
        self._services.save("best")
        emit(Scalar(state.step, "checkpoint/best_accuracy", validation.accuracy))
        emit(Scalar(state.step, "checkpoint/best_step", state.step))
        reason = f"best validation {what} so far; gradient checks {verdict.value}"
        text = f"step {state.step}, epoch {state.epoch}: validation accuracy {validation.accuracy:.4%}, {reason}"
        emit(Text(state.step, "checkpoint/selection", text))
