"""Several steps at once, where nothing is to look at them in between: on CUDA one graph, and one wait for the device.

What every step must have, a finite loss and gradient, is looked at on the device, and from the first step that has not
the optimizer leaves the weights as they are. That step is then taken by itself, under the eyes of the hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from lean_mnist.chainrule.mlp import MLPTrace
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.nn.graphs import Repeatable
from lean_mnist.nn.recording import CannotRecord
from lean_mnist.training.gradients import Batch, StepGradients
from lean_mnist.training.optimizers import SGD, Optimizer

Traces = list[list[MLPTrace]]  # of each step
Capture = Callable[[Callable[[], Traces], Sequence[Tensor]], Repeatable[Traces]]


class Burst(NamedTuple):
    """What became of some steps."""

    losses: list[float]  # of the steps that were applied, all but those from the first that is not finite
    traces: Traces  # of the same steps, until they are taken again


class StepBursts:
    """Takes the steps of batches that stay in their places, all in one.

    Args:
        gradients: what computes a step.
        parameters, optimizer: what moves by it. The optimizer has to have made a step before.
        clip_norm: as of the configuration.
        due: whether a hook is to look at a step, which then cannot be one of a burst.
        capture: makes what takes the same steps again.
    """

    def __init__(
        self,
        gradients: StepGradients,
        parameters: FlatParameters[MLP],
        optimizer: Optimizer,
        clip_norm: float | None,
        due: Callable[[int], bool],
        capture: Capture,
    ) -> None:
        assert isinstance(optimizer, SGD)
        self._gradients, self._parameters, self._optimizer = gradients, parameters, optimizer
        self._clip_norm, self._due, self._capture = clip_norm, due, capture
        self._captured: dict[tuple[int, int, int], _Steps] = {}  # by the batches' place, examples and number
        self._possible = True

    def suits(self, step: int, steps: int) -> bool:
        """Whether so many steps, from the one with the number ``step`` on, may be taken in one."""
        ready = self._possible and steps > 1 and self._optimizer.started
        return ready and not any(map(self._due, range(step, step + steps)))

    def __call__(self, batches: Sequence[Batch], rates: Sequence[float]) -> Burst:
        """Take the steps of ``batches`` with these learning rates; none of them if they cannot be captured."""
        key = batches[0][0].data_ptr(), sum(len(labels) for _, labels in batches), len(batches)
        if key not in self._captured:
            try:
                self._captured[key] = self._captured_steps(batches)
            except CannotRecord:
                self._possible = False
                return Burst([], [])
        return self._captured[key].take(rates)

    def _captured_steps(self, batches: Sequence[Batch]) -> _Steps:
        vector = self._parameters.vector.detach()
        rates, outcomes = vector.new_zeros(len(batches)), vector.new_zeros(2, len(batches))
        failed = vector.new_zeros(())

        def compute() -> Traces:
            traces = []
            failed.zero_()
            for i, batch in enumerate(batches):
                step = self._gradients.compute([batch])
                traces.append(step.traces)
                self._update(step.loss, rates[i], failed)
                outcomes[0, i].copy_(step.loss)
                outcomes[1, i].copy_(failed)
            return traces

        steps = self._capture(compute, [vector, *self._optimizer.momentum])
        self._parameters.spread()  # the weights that capturing moved and brought back
        return _Steps(steps, rates, outcomes)

    def _update(self, loss: Tensor, rate: Tensor, failed: Tensor) -> None:
        """Move the weights by the gradient, unless a loss or gradient is not finite or one has not been before."""
        gradient = self._parameters.gradient
        # A sum is finite only if all terms are. One that overflows costs nothing but a step taken by itself.
        finite = torch.isfinite(loss) & torch.isfinite(gradient.sum())
        failed.copy_(torch.where(finite, failed, torch.ones_like(failed)))
        if self._clip_norm is not None:
            norm = torch.linalg.vector_norm(gradient)
            clip_grads_with_norm_([self._parameters.vector], self._clip_norm, norm)
        self._optimizer.step_at(rate, unless=failed)
        self._parameters.spread()


class _Steps:
    """Captured steps: their learning rates go in, and what became of them comes out."""

    def __init__(self, steps: Repeatable[Traces], rates: Tensor, outcomes: Tensor) -> None:
        self._steps, self._rates, self._outcomes = steps, rates, outcomes

    def take(self, rates: Sequence[float]) -> Burst:
        self._rates.copy_(torch.tensor(rates, dtype=self._rates.dtype))
        self._steps.play()
        losses, failed = self._outcomes.tolist()  # waits for the device
        applied = failed.index(1.0) if 1.0 in failed else len(losses)
        return Burst(losses[:applied], self._steps.result[:applied])
