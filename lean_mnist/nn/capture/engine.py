"""The engine that captures the step of each static batch once and replays it from then on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lean_mnist.data.batches import BatchRing
from lean_mnist.nn.capture.kernels import CannotCapture, CudaGraph, KernelCapture, Replayable
from lean_mnist.nn.modules import MLP
from lean_mnist.nn.parameters import FlatParameters
from lean_mnist.nn.step import Batch, StepChunk, StepEngine, StepResult, StepTape, put_flat_gradients
from lean_mnist.nn.update import SGD, Update

Tapes = list[list[StepTape]]  # of each step of a chunk
ChunkCapture = Callable[[Callable[[], Tapes], Sequence[Tensor]], Replayable[Tapes]]


class CaptureEngine(StepEngine):
    """Replays captured steps; computes as written whatever is not a batch in its ring, or cannot be captured.

    It owns all memory that steps reuse: the batches in ``ring``, and of each of them the tape, loss and every other
    tensor that its step makes. **Validity:** the tape and loss of a step hold as long as its batch, until the ring
    comes round to it, ``RING_DEPTH`` chunks of batches later at the earliest. The gradient holds until the next step.
    Tapes whose tensors are reused are marked ``static``.

    ``chunk_capture`` captures all steps of a chunk as one, with their updates; by a ``CudaGraph``, on CUDA, with
    ``SGD``. That loss and gradient are finite is then tested on the device, and ``stop_requested`` is asked after the
    whole chunk. ``None``: a chunk is one step after the other.
    """

    def __init__(
        self,
        parameters: FlatParameters[MLP],
        update: Update,
        stop_requested: Callable[[], bool],
        ring: BatchRing,
        chunk_capture: ChunkCapture | None = None,
    ) -> None:
        super().__init__(functools.partial(put_flat_gradients, parameters), update, stop_requested)
        self._parameters, self._ring, self._chunk_capture = parameters, ring, chunk_capture
        self._can_capture = True
        self._steps: dict[tuple[int, int], Replayable[StepResult]] = {}  # by address and number of examples
        self._chunks: dict[tuple[int, int, int], _CapturedChunk] = {}  # by address and numbers of examples and batches

    def step(self, batches: Sequence[Batch]) -> StepResult:
        """Put the gradient of the mean loss over all examples of ``batches`` into the flat gradient."""
        captured = self._captured_step(batches[0]) if len(batches) == 1 else None
        if captured is not None:
            captured.replay()
            return captured.result
        return super().step(batches)

    def chunk(self, batches: Sequence[Batch], rates: Sequence[float]) -> StepChunk:
        """Take one step a batch, updates included."""
        captured = self._captured_chunk(batches)
        if captured is None:
            return super().chunk(batches, rates)
        losses, tapes = captured.take(rates)
        return StepChunk(losses, tapes, self._stop_requested())

    def _captured_step(self, batch: Batch) -> Replayable[StepResult] | None:
        key = batch[0].data_ptr(), batch[1].shape[0]  # len() of a tensor takes as long as a small kernel
        if key not in self._steps:
            if not (self._can_capture and self._ring.holds(batch)):
                return None
            capture = CudaGraph if self._parameters.vector.is_cuda else KernelCapture
            try:
                self._steps[key] = capture(lambda: self._compute([batch]))
            except CannotCapture:
                self._can_capture = False
                return None
            for tape in self._steps[key].result.tapes:
                tape.static = True
        return self._steps[key]

    def _captured_chunk(self, batches: Sequence[Batch]) -> _CapturedChunk | None:
        if self._chunk_capture is None or not all(map(self._ring.holds, batches)):
            return None
        key = batches[0][0].data_ptr(), sum(len(labels) for _, labels in batches), len(batches)
        if key not in self._chunks:
            assert isinstance(self._update.optimizer, SGD)
            if not self._update.optimizer.started:
                return None
            try:
                self._chunks[key] = _CapturedChunk(self._parameters, self._update, batches, self._chunk_capture)
            except CannotCapture:
                self._chunk_capture = None
                return None
        return self._chunks[key]


class _CapturedChunk:
    """The steps of a chunk of static batches, captured as one: learning rates go in, losses and failures come out."""

    def __init__(
        self, parameters: FlatParameters[MLP], update: Update, batches: Sequence[Batch], capture: ChunkCapture
    ) -> None:
        assert isinstance(update.optimizer, SGD)
        vector = parameters.vector.detach()
        # While the rates are 0, which they are during the capture, only the momentum moves.
        rates, outcomes = vector.new_zeros(len(batches)), vector.new_zeros(2, len(batches))
        failed = vector.new_zeros(())

        def compute() -> Tapes:
            tapes = []
            failed.zero_()
            for i, batch in enumerate(batches):
                result = put_flat_gradients(parameters, [batch])
                update.apply_on_device(result.loss, rates[i], failed)
                outcomes[0, i].copy_(result.loss)
                outcomes[1, i].copy_(failed)
                tapes.append(result.tapes)
            return tapes

        self._optimizer, self._rates, self._outcomes = update.optimizer, rates, outcomes
        self._steps = capture(compute, update.optimizer.momentum)

    def take(self, rates: Sequence[float]) -> tuple[list[float], Tapes]:
        """Take the steps; losses and tapes of those that were applied, all before the first that is not finite."""
        self._optimizer.param_groups[0]["lr"] = rates[-1]
        self._rates.copy_(torch.tensor(rates, dtype=self._rates.dtype))
        self._steps.replay()
        losses, failed = self._outcomes.tolist()  # waits for the device
        applied = failed.index(1.0) if 1.0 in failed else len(losses)
        return losses[:applied], self._steps.result[:applied]
