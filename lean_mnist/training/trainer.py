"""The training loop: batches in, updates, an evaluation an epoch, until the last epoch or a request to stop."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator

from lean_mnist.data.batches import Batch
from lean_mnist.training.epoch_end import end_epoch
from lean_mnist.training.steps import Loop, Steps


class Trainer:
    """Trains from where ``loop.state`` stands until the last epoch, early stopping, or a request to stop."""

    def __init__(self, loop: Loop) -> None:
        self._loop, self._steps, self._own_checks = loop, Steps(loop), loop.hooks.checks

    def fit(self) -> bool:
        """Train; returns whether training ended (``state.finished`` says why), rather than being asked to stop."""
        state = self._loop.state
        while not state.finished:
            started, examples_before = time.perf_counter(), state.epoch_examples
            seconds_before = state.seconds
            take, groups = self._rest_of_epoch()
            for batches in groups:
                stop = take(batches)
                state.seconds = seconds_before + time.perf_counter() - started
                if stop:
                    self._synchronise()
                    self._loop.save("last")
                    return False
            speed = (state.epoch_examples - examples_before) / max(1e-9, time.perf_counter() - started)
            self._synchronise()
            end_epoch(self._loop, speed)
            state.seconds = seconds_before + time.perf_counter() - started
            self._loop.save("last")
        return True

    def _rest_of_epoch(self) -> tuple[Callable[[list[Batch]], bool], Iterable[list[Batch]]]:
        """What makes one update or several, and the batches to call it with, group by group."""
        state, accumulate = self._loop.state, self._loop.objective.config.accumulate
        chunks = self._loop.objective.batches.chunks(state.epoch, state.batch)
        if self._loop.world.size == 1 and accumulate == 1:
            return self._steps.take_chunk, chunks
        return self._steps.take, _groups(itertools.chain.from_iterable(chunks), accumulate)

    def _synchronise(self) -> None:
        """Merge the findings of all processes' checks, so that all decide alike, from weights that are the same."""
        state, world = self._loop.state, self._loop.world
        if world.size > 1:
            world.same_weights(self._loop.objective.parameters.vector, state.step)
        state.checks = state.checks.merged(world.gather(self._own_checks))


def _groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """``size`` batches at a time; the last group may have fewer."""
    batches = iter(batches)
    while group := list(itertools.islice(batches, size)):
        yield group
