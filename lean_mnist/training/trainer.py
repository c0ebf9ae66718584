"""The training loop: batches in, updates, an evaluation an epoch, until the last epoch or a request to stop."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator

from lean_mnist.data.batches import Batch
from lean_mnist.nn.update import Update
from lean_mnist.training.config.schedules import LearningRate
from lean_mnist.training.distributed import World
from lean_mnist.training.epoch_end import EpochEnd
from lean_mnist.training.hooks import StepHooks
from lean_mnist.training.objectives.protocol import Objective
from lean_mnist.training.state import RunState
from lean_mnist.training.steps import Services, Steps


class Trainer:
    """Trains by ``objective`` from where ``state`` stands until the last epoch, early stopping, or a request to stop.

    Args:
        objective: computes steps and evaluates.
        update: moves the objective's parameters.
        learning_rate: of each step.
        hooks: look at the steps.
        state: position of the run; goes along.
        services: of the run.
        world: the processes that train together; this one alone if not given.
    """

    def __init__(
        self,
        objective: Objective,
        update: Update,
        learning_rate: LearningRate,
        hooks: StepHooks,
        state: RunState,
        services: Services,
        world: World | None = None,
    ) -> None:
        self._objective, self._state, self._services = objective, state, services
        self._world, self._own_checks = world or World(), hooks.checks
        self._steps = Steps(objective, update, learning_rate, hooks, state, services, self._world)
        self._epoch_end = EpochEnd(objective, state, services)

    def fit(self) -> bool:
        """Train; returns whether training ended (``state.finished`` says why), rather than being asked to stop."""
        state = self._state
        while not state.finished:
            started, examples_before = time.perf_counter(), state.epoch_examples
            seconds_before = state.seconds
            take, groups = self._rest_of_epoch()
            for batches in groups:
                stop = take(batches)
                state.seconds = seconds_before + time.perf_counter() - started
                if stop:
                    self._synchronise()
                    self._services.save("last")
                    return False
            speed = (state.epoch_examples - examples_before) / max(1e-9, time.perf_counter() - started)
            self._synchronise()
            self._epoch_end(speed)
            state.seconds = seconds_before + time.perf_counter() - started
            self._services.save("last")
        return True

    def _rest_of_epoch(self) -> tuple[Callable[[list[Batch]], bool], Iterable[list[Batch]]]:
        """What makes one update or several, and the batches to call it with, group by group."""
        state, accumulate = self._state, self._objective.config.accumulate
        chunks = self._objective.batches.chunks(state.epoch, state.batch)
        if self._world.size == 1 and accumulate == 1:
            return self._steps.take_chunk, chunks
        return self._steps.take, _groups(itertools.chain.from_iterable(chunks), accumulate)

    def _synchronise(self) -> None:
        """Merge the findings of all processes' checks, so that all decide alike, from weights that are the same."""
        state = self._state
        self._world.same_weights(self._objective.parameters.vector, state.step)
        state.checks = state.checks.merged(self._world.gather(self._own_checks))


def _groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """``size`` batches at a time; the last group may have fewer."""
    batches = iter(batches)
    while group := list(itertools.islice(batches, size)):
        yield group
