"""Several steps in a row that no hook is to look at.

What every step must have, a finite loss and gradient, each of these has too: the first that has not is not applied,
and those from it on are left to be taken one by one, in sight of the hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lean_mnist.data.batches import Batch
from lean_mnist.nn.capture.kernels import CannotCapture, Replayable
from lean_mnist.nn.sgd import SGD
from lean_mnist.nn.step import StepTape
from lean_mnist.nn.update import Update
from lean_mnist.training.gradients import Gradients, StepGradients

Traces = list[list[StepTape]]  # of each step
Capture = Callable[[Callable[[], Traces], Sequence[Tensor]], Replayable[Traces]]


class Burst(NamedTuple):
    """What became of some steps: of those that were applied."""

    losses: list[float]
    traces: Traces  # until they are taken again
    stop: bool  # asked to stop, after the last of them


class Bursts(Protocol):
    """Takes the steps of some batches with these learning rates, up to the first that is not finite or to stop at."""

    def __call__(self, batches: Sequence[Batch], rates: Sequence[float]) -> Burst: ...


class PlayedSteps:
    """One step after the other, with as little as possible between them.

    Args:
        gradients: what computes a step.
        update: moves the parameters by its gradient.
        stop_requested: asked after every step.
    """

    def __init__(
        self, gradients: Callable[[Sequence[Batch]], Gradients], update: Update, stop_requested: Callable[[], bool]
    ) -> None:
        self._gradients, self._update, self._stop_requested = gradients, update, stop_requested

    def __call__(self, batches: Sequence[Batch], rates: Sequence[float]) -> Burst:
        """Take the steps."""
        losses, traces, stop = [], [], False
        for batch, rate in zip(batches, rates, strict=True):
            step = self._gradients([batch])
            loss = float(step.loss)
            if not self._update.is_finite(loss):
                break
            self._update.apply(rate)
            losses.append(loss)
            traces.append(step.tapes)
            if stop := self._stop_requested():
                break
        return Burst(losses, traces, stop)


class CapturedSteps:
    """Steps of batches that stay in their places, all in one: on CUDA one graph, and one wait for the device.

    What must be finite is looked at on the device, and from the first step where it is not the optimizer leaves the
    weights as they are. Steps that cannot be captured are taken as :class:`PlayedSteps` does.

    Args:
        gradients, update: as of ``PlayedSteps``; its optimizer is our ``SGD``.
        stop_requested: asked after the last of the steps.
        capture: makes what takes the same steps again.
    """

    def __init__(
        self,
        gradients: StepGradients,
        update: Update,
        stop_requested: Callable[[], bool],
        capture: Capture,
    ) -> None:
        assert isinstance(update.optimizer, SGD)
        self._gradients, self._update, self._optimizer = gradients, update, update.optimizer
        self._stop_requested, self._capture = stop_requested, capture
        self._played = PlayedSteps(gradients, update, stop_requested)
        self._captured: dict[tuple[int, int, int], _Steps] = {}  # by the batches' place, examples and number
        self._possible = True

    def __call__(self, batches: Sequence[Batch], rates: Sequence[float]) -> Burst:
        """Take the steps."""
        key = batches[0][0].data_ptr(), sum(len(labels) for _, labels in batches), len(batches)
        if self._possible and self._optimizer.started and key not in self._captured:
            try:
                self._captured[key] = self._captured_steps(batches)
            except CannotCapture:
                self._possible = False
        steps = self._captured.get(key)
        if steps is None:
            return self._played(batches, rates)
        self._optimizer.param_groups[0]["lr"] = rates[-1]
        losses, traces = steps.take(rates)
        return Burst(losses, traces, self._stop_requested())

    def _captured_steps(self, batches: Sequence[Batch]) -> _Steps:
        vector = self._optimizer.param_groups[0]["params"][0].detach()
        rates, outcomes = vector.new_zeros(len(batches)), vector.new_zeros(2, len(batches))
        failed = vector.new_zeros(())

        def compute() -> Traces:
            traces = []
            failed.zero_()
            for i, batch in enumerate(batches):
                step = self._gradients.compute([batch])
                traces.append(step.tapes)
                self._update.apply_on_device(step.loss, rates[i], failed)
                outcomes[0, i].copy_(step.loss)
                outcomes[1, i].copy_(failed)
            return traces

        # The learning rates are still 0, so that only the momentum moves while this is captured.
        return _Steps(self._capture(compute, self._optimizer.momentum), rates, outcomes)


class _Steps:
    """Captured steps: their learning rates go in, and what became of them comes out."""

    def __init__(self, steps: Replayable[Traces], rates: Tensor, outcomes: Tensor) -> None:
        self._steps, self._rates, self._outcomes = steps, rates, outcomes

    def take(self, rates: Sequence[float]) -> tuple[list[float], Traces]:
        """Losses and traces of those that were applied."""
        self._rates.copy_(torch.tensor(rates, dtype=self._rates.dtype))
        self._steps.replay()
        losses, failed = self._outcomes.tolist()  # waits for the device
        applied = failed.index(1.0) if 1.0 in failed else len(losses)
        return losses[:applied], self._steps.result[:applied]
