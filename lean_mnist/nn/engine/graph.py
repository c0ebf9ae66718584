"""The engine for a CUDA device: the kernels of a step, captured once as a graph and launched again from then on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from lean_mnist.data.batches import BatchRing
from lean_mnist.nn.modules import MLP
from lean_mnist.nn.parameters import FlatParameters
from lean_mnist.nn.step import Batch, StepChunk, StepEngine, StepResult, StepTape, put_flat_gradients
from lean_mnist.nn.update import SGD, Update

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class CannotCapture(Exception):
    """A computation that is not the same kernels every time."""


class Replayable(Protocol[Result_co]):
    """A captured computation: ``replay`` computes again from the present content of the tensors that it reads."""

    @property
    def result(self) -> Result_co:
        """Its tensors, rewritten by every ``replay``."""

    def replay(self) -> None:
        """Compute again."""


class CudaGraph(Generic[Result]):
    """The kernels of ``compute()`` as one graph; :meth:`replay` launches it on the current stream, without waiting.

    ``result`` is the return value of ``compute``; it holds numbers after the first replay. Inputs are the tensors that
    ``compute`` read, which must keep their memory. Capturing computes once, to let the libraries set themselves up;
    ``restored`` are tensors that this may change and whose content is then restored.
    Raises :class:`CannotCapture` where ``compute`` needs the host, for a number for instance.
    """

    def __init__(self, compute: Callable[[], Result], restored: Sequence[Tensor] = ()) -> None:
        before = [tensor.clone() for tensor in restored]
        current, other = torch.cuda.current_stream(), torch.cuda.Stream()
        other.wait_stream(current)
        with torch.no_grad(), torch.cuda.stream(other):
            compute()
        current.wait_stream(other)
        for tensor, old in zip(restored, before, strict=True):
            tensor.copy_(old)
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.no_grad(), torch.cuda.graph(self._graph):
                self.result = compute()
        except RuntimeError as error:
            raise CannotCapture(str(error)) from error

    def replay(self) -> None:
        """Launch the graph."""
        self._graph.replay()


class ChunkScreen(Protocol):
    """A check of every step of one captured chunk: kernels in its graph, and a look at what they leave."""

    @property
    def kept(self) -> Sequence[Tensor]:
        """Tensors that its kernels write and that are as before where a chunk is undone."""

    def enter(self, first: int, batches: Sequence[Batch]) -> None:
        """Before the graph takes these steps, the first of which has this number."""

    def check(self, place: int, batch: Batch, result: StepResult) -> None:
        """Kernels that check the step at this place, before its update; may raise :class:`CannotCapture`."""

    def moved(self) -> None:
        """Kernels after an update."""

    def stands_out(self, first: int, losses: Sequence[float]) -> bool:
        """After the graph: True if something does in one of the steps that have these losses."""


Tapes = list[list[StepTape]]  # of each step of a chunk
Graph = Callable[[Callable[[], Any], Sequence[Tensor]], Replayable[Any]]


class GraphEngine(StepEngine):
    """Replays captured steps; computes as written whatever is not a batch in its ring, or cannot be captured.

    It owns all memory that steps reuse: the batches in ``ring``, and of each of them the tape, loss and every other
    tensor that its step makes. **Validity:** the tape and loss of a step hold as long as its batch, until the ring
    comes round to it, ``RING_DEPTH`` chunks of batches later at the earliest. The gradient holds until the next step.

    With ``whole_chunks``, which takes :class:`SGD`, all steps of a chunk are one ``graph``, with their updates: that
    loss and gradient are finite is tested on the device, and ``stop_requested`` is asked after the chunk. With
    ``screen``, which makes what screens a chunk, its steps are screened in the graph. Where something stands out the
    chunk is undone, and its steps are left to whoever looks at them one by one.
    """

    screen: Callable[[], ChunkScreen] | None = None

    def __init__(
        self,
        parameters: FlatParameters[MLP],
        update: Update,
        stop_requested: Callable[[], bool],
        ring: BatchRing,
        *,
        whole_chunks: bool = False,
        graph: Graph = CudaGraph,
    ) -> None:
        super().__init__(functools.partial(put_flat_gradients, parameters), update, stop_requested)
        self._parameters, self._ring, self._graph = parameters, ring, graph
        self._captures_steps, self._captures_chunks = True, whole_chunks
        self._steps: dict[tuple[int, int], Replayable[StepResult]] = {}  # by address and number of examples
        self._chunks: dict[tuple[int, int], _CapturedChunk] = {}  # by address and number of examples

    @property
    def screens(self) -> bool:
        """True with a screen, while chunks can be captured."""
        return self.screen is not None and self._captures_chunks

    def step(self, batches: Sequence[Batch]) -> StepResult:
        """Put the gradient of the mean loss over all examples of ``batches`` into the flat gradient."""
        captured = self._captured_step(batches[0]) if len(batches) == 1 else None
        if captured is not None:
            captured.replay()
            return captured.result
        return super().step(batches)

    def chunk(
        self, batches: Sequence[Batch], rates: Sequence[float], first: int = 1, *, hold: bool = False
    ) -> StepChunk:
        """Take one step a batch, updates included."""
        captured = self._captured_chunk(batches)
        if captured is None:
            return StepChunk([], [], stopped=False) if self.screens else super().chunk(batches, rates, first)
        if captured.screen is not None:
            captured.screen.enter(first, batches)
        losses, tapes = captured.take(rates)
        if captured.screen is not None and captured.screen.stands_out(first, losses):
            captured.undo()
            return StepChunk([], [], stopped=False)
        return StepChunk(losses, tapes, self._stop_requested(), not_finite=len(losses) < len(batches))

    def _captured_step(self, batch: Batch) -> Replayable[StepResult] | None:
        key = batch[0].data_ptr(), batch[1].shape[0]  # len() of a tensor takes as long as a small kernel
        if key not in self._steps:
            if not (self._captures_steps and self._ring.holds(batch)):
                return None
            try:
                self._steps[key] = self._graph(lambda: self._compute([batch]), ())
            except CannotCapture:
                self._captures_steps = False
                return None
        return self._steps[key]

    def _captured_chunk(self, batches: Sequence[Batch]) -> _CapturedChunk | None:
        whole = len(batches) == self._ring.batches and all(map(self._ring.holds, batches))
        if not (self._captures_chunks and whole):
            return None
        key = batches[0][0].data_ptr(), sum(len(labels) for _, labels in batches)
        if key not in self._chunks:
            assert isinstance(self._update.optimizer, SGD)
            if not self._update.optimizer.started:
                return None
            try:
                screen = None if self.screen is None else self.screen()
                self._chunks[key] = _CapturedChunk(self._parameters, self._update, batches, self._graph, screen)
            except CannotCapture:
                self._captures_chunks = False
                return None
        return self._chunks[key]


class _CapturedChunk:
    """The steps of a chunk of static batches, captured as one: learning rates go in, losses and failures come out."""

    def __init__(
        self,
        parameters: FlatParameters[MLP],
        update: Update,
        batches: Sequence[Batch],
        graph: Graph,
        screen: ChunkScreen | None,
    ) -> None:
        assert isinstance(update.optimizer, SGD)
        vector = parameters.vector.detach()
        # While the rates are 0, which they are during the capture, only the momentum moves.
        rates, outcomes = vector.new_zeros(len(batches)), vector.new_zeros(2, len(batches))
        failed, kept = vector.new_zeros(()), () if screen is None else screen.kept
        # What a step that stands out must not have changed, as it was before the chunk.
        self._before = [] if screen is None else [(t, t.clone()) for t in (vector, *update.optimizer.momentum, *kept)]

        def compute() -> Tapes:
            tapes = []
            failed.zero_()
            for tensor, before in self._before:
                before.copy_(tensor)
            for i, batch in enumerate(batches):
                result = put_flat_gradients(parameters, [batch])
                if screen is not None:
                    screen.check(i, batch, result)
                update.apply_on_device(result.loss, rates[i], failed)
                if screen is not None:
                    screen.moved()
                outcomes[0, i].copy_(result.loss)
                outcomes[1, i].copy_(failed)
                tapes.append(result.tapes)
            return tapes

        self._optimizer, self._rates, self._outcomes = update.optimizer, rates, outcomes
        self.screen, self._parameters = screen, parameters
        self._steps = graph(compute, [*update.optimizer.momentum, *kept])

    def undo(self) -> None:
        """Put weights, momentum and what the screen keeps back to what they were before the chunk."""
        for tensor, before in self._before:
            tensor.copy_(before)
        self._parameters.vector_to_network()

    def take(self, rates: Sequence[float]) -> tuple[list[float], Tapes]:
        """Take the steps; losses and tapes of those that were applied, all before the first that is not finite."""
        self._optimizer.param_groups[0]["lr"] = rates[-1]
        self._rates.copy_(torch.tensor(rates, dtype=self._rates.dtype))
        self._steps.replay()
        losses, failed = self._outcomes.tolist()  # waits for the device
        applied = failed.index(1.0) if 1.0 in failed else len(losses)
        return losses[:applied], self._steps.result[:applied]
