"""The gradients of a step, computed as the chain rule is written, or played from a recording of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from lean_mnist.data.batches import Batch
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.nn.capture.cuda_graph import CudaGraph
from lean_mnist.nn.capture.kernels import CannotCapture, KernelCapture, Replayable
from lean_mnist.nn.step import StepTape, put_flat_gradients


class Gradients(NamedTuple):
    """What a step computed. Its tensors may be written over by a later step, but not by the next ``RING_DEPTH``."""

    batches: list[Batch]
    loss: Tensor  # the mean over all examples
    tapes: list[StepTape]


class StepGradients:
    """Puts the gradient of the mean loss of a step's batches into ``parameters.gradient``; without batches, it stays.

    Args:
        model, parameters: the network, and its parameters made flat.
        traced: keep what each step computes on its way.
        replay: record the step of a batch in each place in memory once, and play the recording from then on. Only where
            batches stay in a few places, each at least until ``RING_DEPTH`` more have been computed.
    """

    def __init__(self, model: MLP, parameters: FlatParameters[MLP], *, traced: bool, replay: bool) -> None:
        self._model, self._parameters, self._traced = model, parameters, traced
        self._replay = replay and model.same_kernels
        self._record: Callable[[Callable[[], Gradients]], Replayable[Gradients]]
        self._record = CudaGraph if parameters.vector.is_cuda else KernelCapture
        self._recorded: dict[tuple[int, int], Replayable[Gradients]] = {}  # by the batch's place and examples

    def __call__(self, batches: Sequence[Batch]) -> Gradients:
        """Compute, or play; raises as the network's ``loss`` does."""
        if self._replay and len(batches) == 1:
            recording = self._recording(*batches[0])
            if recording is not None:
                return recording.result
        return self.compute(list(batches))

    def compute(self, batches: list[Batch]) -> Gradients:
        result = put_flat_gradients(self._parameters, batches)
        return Gradients(batches, result.loss, result.tapes if self._traced else [])

    def _recording(self, x: Tensor, labels: Tensor) -> Replayable[Gradients] | None:
        """The recording of this place, played; ``None`` if the step cannot be recorded."""
        place = x.data_ptr(), len(labels)
        recording = self._recorded.get(place)
        if recording is None:
            try:
                recording = self._recorded[place] = self._record(lambda: self.compute([(x, labels)]))
            except CannotCapture:
                self._replay = False
                return None
            for tape in recording.result.tapes:
                tape.static = True
        recording.replay()
        return recording
