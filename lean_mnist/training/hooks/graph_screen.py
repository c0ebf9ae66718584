"""Screen and memory guard of the steps of one captured chunk, as kernels of its graph."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lean_mnist.audit.local_checks import ComputedStep
from lean_mnist.audit.randomised import ChunkCheck
from lean_mnist.nn import MLP
from lean_mnist.nn.engine.graph import CannotCapture
from lean_mnist.nn.step import Batch, StepResult
from lean_mnist.training.hooks.memory import MemoryGuard


class GraphScreen:
    """A :class:`~lean_mnist.nn.engine.graph.ChunkScreen`: the batched check of each step, and what ``guard`` compares.

    ``look_back`` is told how many steps passed, the number of one that stood out, or 0, and the seconds of a look.
    """

    def __init__(
        self, network: MLP, check: ChunkCheck, guard: MemoryGuard | None, look_back: Callable[[int, int, float], None]
    ) -> None:
        self._network, self._check, self._guard, self._look_back = network, check, guard, look_back
        self._changed: list[Tensor] = []  # of each step: whether what rests was changed before its update
        self.kept = [] if guard is None else guard.sums

    def enter(self, first: int, batches: Sequence[Batch]) -> None:
        """Raises ``MemoryFault`` where a batch, or what rests, was changed."""
        if self._guard is not None:
            self._guard.compare_chunk(batches)
        self._check.draw(first)

    def check(self, place: int, batch: Batch, result: StepResult) -> None:
        """Before an update; raises ``CannotCapture`` where the step has no batched check."""
        step = ComputedStep.of(self._network, [batch], result.tapes, result.loss)
        if not self._check.capture(place, step):
            raise CannotCapture("a step without a batched check")
        if self._guard is not None:
            changed = self._guard.differs_on_device()
            if place == len(self._changed):
                self._changed.append(changed.clone())
            self._changed[place].copy_(changed)

    def moved(self) -> None:
        """After an update."""
        if self._guard is not None:
            self._guard.note_on_device()

    def stands_out(self, first: int, losses: Sequence[float]) -> bool:
        """True if a residual of one of these steps does, or if something had changed that rested."""
        started, shares = time.perf_counter(), self._check.shares(losses)
        changed = torch.stack(self._changed).tolist() if self._changed else [False] * len(shares)
        bad = [i for i, share in enumerate(shares) if changed[i] or not share <= 1]  # also NaN
        self._look_back(0 if bad else len(losses), first + bad[0] if bad else 0, time.perf_counter() - started)
        return bool(bad)

    def undone(self, first: int) -> None:
        """Raises ``MemoryFault`` where what was put back is not what was there."""
        if self._guard is not None:
            self._guard.compare_at_rest(first)
