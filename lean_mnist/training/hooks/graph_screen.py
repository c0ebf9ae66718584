"""Screen and memory guard of the steps of one captured chunk, as kernels of its graph."""

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.audit.batched import BatchedCheck
from lean_mnist.audit.local_checks import ComputedStep
from lean_mnist.audit.randomised import RandomisedCheck
from lean_mnist.nn import MLP
from lean_mnist.nn.engine.graph import CannotCapture
from lean_mnist.nn.step import Batch, StepResult
from lean_mnist.training.hooks.memory import MemoryGuard


class _Screened(NamedTuple):
    """Memory of one step that the graph reads, and that it leaves."""

    probes: Tensor
    numbers: Tensor  # of ``run``
    changed: Tensor  # whether what rests was, before the update
    run: BatchedCheck


class GraphScreen:
    """A :class:`~lean_mnist.nn.engine.graph.ChunkScreen`: the batched check of each step, and what ``guard`` compares.

    ``look_back`` is told how many steps passed, the number of one that stood out, or 0, and the seconds of a look.
    """

    def __init__(
        self, network: MLP, check: RandomisedCheck, guard: MemoryGuard | None,
        look_back: Callable[[int, int, float], None],
    ) -> None:  # fmt: skip
        self._network, self._check, self._guard, self._look_back = network, check, guard, look_back
        self._sums = [] if guard is None else guard.checksums
        self.kept = [sums.then for sums in self._sums]
        self._steps: list[_Screened] = []

    def enter(self, first: int, batches: Sequence[Batch]) -> None:
        """Raises ``MemoryFault`` where a batch, or what rests, was changed."""
        if self._guard is not None:
            self._guard.compare_chunk(batches)
        for number, step in enumerate(self._steps, first):
            step.probes.copy_(self._check.probes.vector(number))

    def check(self, place: int, batch: Batch, result: StepResult) -> None:
        """Before an update; raises ``CannotCapture`` where the step has no batched check."""
        step, new = ComputedStep.of(self._network, [batch], result.tapes, result.loss), place == len(self._steps)
        probes = self._check.probes_for(step).vector(0).clone() if new else self._steps[place].probes
        run = self._check.run_batched(step, probes)
        if run is None:
            raise CannotCapture("a step without a batched check")
        changed = torch.stack([probes.new_zeros((), dtype=torch.bool), *(sums.differs() for sums in self._sums)]).any()
        if new:
            self._steps.append(_Screened(probes, run.numbers.clone(), changed.clone(), run))
        self._steps[place].numbers.copy_(run.numbers)
        self._steps[place].changed.copy_(changed)

    def moved(self) -> None:
        """After an update."""
        for sums in self._sums:
            sums.note()

    def stands_out(self, first: int, losses: Sequence[float]) -> bool:
        """True if a residual of one of these steps does, or if something had changed that rested."""
        started = time.perf_counter()
        numbers, changed = (torch.stack(each).tolist() for each in list(zip(*self._steps, strict=True))[1:3])
        steps = zip(self._steps, numbers, changed, losses, strict=False)
        shares = [math.nan if changed else step.run.share(loss, row) for step, row, changed, loss in steps]
        bad = [number for number, share in enumerate(shares, first) if not share <= 1]  # also NaN
        self._look_back(0 if bad else len(losses), bad[0] if bad else 0, time.perf_counter() - started)
        return bool(bad)
