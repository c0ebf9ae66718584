"""Processes of a run, as the trainer sees them. ``World`` is the one process of a run without ``torchrun``.

Every process (*rank*) has all of the data, draws the same batches, and takes its own contiguous part of each. A step is

    gradient of the mean loss over the own part → ``snapshot`` → the hooks' checks → ``reduce`` → clip → optimizer

so that everything the hooks see is the rank's own, and everything the optimizer sees is everybody's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from torch import Tensor

from lean_mnist.errors import ConfigError, Interrupted, LeanMnistError
from lean_mnist.nn.parameters import ParameterSlot

T = TypeVar("T")
E = TypeVar("E", LeanMnistError, Interrupted)


class Share(NamedTuple):
    """A rank's part of a global batch of ``total`` examples: those from ``begin`` up to, not including, ``end``."""

    begin: int
    end: int
    total: int

    @property
    def examples(self) -> int:
        """Number of them."""
        return self.end - self.begin

    @property
    def rows(self) -> slice:
        """Index of the global batch."""
        return slice(self.begin, self.end)


class World:
    """One process: everything is its own, nothing is exchanged, nothing is copied."""

    rank = 0
    size = 1
    resume_hint = ""  # the command with which a run goes on after a process was lost, once there is a checkpoint

    def __enter__(self) -> World:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    @property
    def is_writer(self) -> bool:
        """Whether this process writes what the run leaves behind."""
        return self.rank == 0

    def share(self, total: int) -> Share:
        """This rank's part of a global batch: the parts tile it in order, and their sizes differ by at most 1.

        Some are empty where ``total < size``; their ranks still take part in every reduction.
        """
        return Share(self.rank * total // self.size, (self.rank + 1) * total // self.size, total)

    def require_examples(self, batch_size: int, examples: int) -> None:
        """Raise ``ConfigError`` unless every process gets an example of a full batch."""
        least = f"expected at least one example for each of the {self.size} processes, found"
        if batch_size < self.size:
            raise self.report_once(ConfigError(f"--batch-size: {least} {batch_size}"))
        if examples < self.size:
            raise self.report_once(ConfigError(f"the training split: {least} {examples}"))

    def report_once(self, error: E) -> E:
        """Mark ``error``, which every rank is about to raise, so that the command line of one of them prints it."""
        return error

    def assert_consistent(self, what: Mapping[str, str]) -> None:
        """Raise ``ConfigError`` on every rank, naming fields and ranks, unless ``what`` is the same on all."""

    def same_weights(self, vector_P: Tensor, step: int) -> None:
        """Raise ``GradientMismatch`` on every rank unless the weights after ``step`` are equal, bit for bit, on all."""

    def prepare(self, layout: Sequence[ParameterSlot], like_P: Tensor, seed: int) -> None:
        """Make what reductions of a flat gradient like ``like_P``, shape (P,), need; ``layout`` names its places."""

    def snapshot(self, gradient_P: Tensor, step: int) -> None:
        """Copy the own gradient before it is checked, so that what is checked is what is sent."""

    def reduce(
        self,
        gradient_P: Tensor,
        loss: Tensor,
        share: Share,
        *,
        step: int,
        refusal: LeanMnistError | None = None,
        stop: bool = False,
    ) -> tuple[Tensor, bool]:
        """Replace the gradient of the mean over the own part by that over the global batch, in place.

        Args:
            gradient_P: (P,), of the mean loss over this rank's part; that of an empty part is taken as zero.
            loss: the mean over this rank's part.
            step: the step's number, from 1.
            refusal: why this rank's checks refuse the step, if they do; every rank then raises an error that says so.
            stop: whether this process was asked to stop.

        Returns the mean loss over the global batch, like ``loss``, and whether any process was asked to stop. Raises
        ``refusal``, on every rank and naming whose it is; with several processes also ``GradientMismatch`` where the
        reduced gradient is not the sum of the ranks' own, and ``RankLost``.
        """
        if refusal is not None:
            raise refusal
        return loss, stop

    def gather(self, value: T) -> list[T]:
        """The ``value`` of every rank, in their order. For small things, now and then."""
        return [value]

    def on_writer(self, action: Callable[[], T]) -> T:
        """Result of ``action``, done by the writer alone; an error for people that it raises is raised by all."""
        return action()

    def everywhere(self, action: Callable[[], T]) -> T:
        """Result of ``action`` on this rank; an error for people that it raises on any rank is raised by all."""
        return action()
