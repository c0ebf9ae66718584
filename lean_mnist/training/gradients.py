"""The gradients of a step, computed as the chain rule is written, or played from a recording of that."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.chainrule.mlp import MLPTrace
from lean_mnist.crosscheck.steps.record import REMEMBERED
from lean_mnist.crosscheck.steps.recorded import put_gradients
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.nn.recording import CannotRecord, Recording

Batch = tuple[Tensor, Tensor]


class Gradients(NamedTuple):
    """What a step computed. Its tensors may be written over by a later step, but not by the next ``REMEMBERED``."""

    batches: list[Batch]
    loss: Tensor  # the mean over all examples
    traces: list[MLPTrace]


class StepGradients:
    """Puts the gradient of the mean loss of a step's batches into ``parameters.gradient``; without batches, it stays.

    Args:
        model, parameters: the network, and its parameters made flat.
        traced: keep what each step computes on its way.
        replay: record the step of a batch of each shape once, and play the recording from then on. On the CPU only.
    """

    def __init__(self, model: MLP, parameters: FlatParameters[MLP], *, traced: bool, replay: bool) -> None:
        self._model, self._parameters, self._traced = model, parameters, traced
        self._replay = replay and model.same_kernels and parameters.vector.device.type == "cpu"
        # What was computed is remembered for some steps, so as many recordings take turns.
        self._turns = 1 + REMEMBERED * traced
        self._recorded: dict[torch.Size, Iterator[Recording[Gradients]]] = {}

    def __call__(self, batches: Sequence[Batch]) -> Gradients:
        """Compute, or play; raises as the network's ``loss`` does."""
        if self._replay and len(batches) == 1:
            recording = self._recording(*batches[0])
            if recording is not None:
                return recording.result
        return self._compute(list(batches))

    def _compute(self, batches: list[Batch]) -> Gradients:
        if not batches:
            return Gradients([], self._parameters.gradient.new_tensor(math.nan), [])
        traces = [MLPTrace() for _ in batches] if self._traced else []
        loss = put_gradients(self._model, batches, traces)
        self._parameters.collect()
        return Gradients(batches, loss, traces)

    def _recording(self, x: Tensor, labels: Tensor) -> Recording[Gradients] | None:
        """The next recording of this shape, played on this batch; ``None`` if the step cannot be recorded."""
        if x.shape not in self._recorded:
            try:
                made = [self._record(x, labels) for _ in range(self._turns)]
            except CannotRecord:
                self._replay = False
                return None
            self._recorded[x.shape] = itertools.cycle(made)
        recording = next(self._recorded[x.shape])
        ((own_x, own_labels),) = recording.result.batches
        own_x.copy_(x)
        own_labels.copy_(labels)
        recording.play()
        return recording

    def _record(self, x: Tensor, labels: Tensor) -> Recording[Gradients]:
        batches = [(x.clone(), labels.clone())]
        recording = Recording(lambda: self._compute(batches))
        for trace in recording.result.traces:
            trace.stays = True
        return recording
