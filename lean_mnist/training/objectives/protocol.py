"""Interface of an objective: what a run trains, and what its steps, evaluations and end mean.

:class:`~lean_mnist.training.objectives.classification.Classification` trains a network on the mean cross-entropy. What
an objective does not decide is the same for all: the order of a step (gradients → hooks and gates → update), learning
rates, records and sinks, checkpoints, resuming, interrupts, several processes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol

from lean_mnist.data.batches import Batch
from lean_mnist.data.datasets import Dataset
from lean_mnist.nn import FlatParameters
from lean_mnist.nn.step import StepEngine
from lean_mnist.nn.update import Update
from lean_mnist.training.config import Config
from lean_mnist.training.evaluation.metrics import Evaluation
from lean_mnist.training.hooks.step import FailurePolicy, StepHooks
from lean_mnist.training.report.tested import Tested
from lean_mnist.training.run_folder import RunFolder
from lean_mnist.training.sinks.records import Record
from lean_mnist.training.state import RunState


class BatchSource(Protocol):
    """Source of batches; a pure function of epoch and position, so that a run can resume anywhere."""

    @property
    def split(self) -> Sized:
        """The examples."""

    def chunks(self, epoch: int, start: int = 0) -> Iterable[Sequence[Batch]]:
        """Batches of an epoch, from batch ``start`` on, some at a time; of several processes, each one's part."""


class Result(Protocol):
    """Outcome of a run: ``str(result)`` is for people."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, written into ``summary.json``."""


class Objective(Protocol):
    """Training objective of a run. Made from configuration and data, before anything is written.

    ``parameters`` are all trained numbers as one vector, which the run's optimizer moves, and their gradient as
    another; ``parameters.network`` is the module whose parameters and ``.grad`` hooks look at. A parameter that is not
    to move has gradient 0 and no weight decay.
    """

    config: Config  # with everything chosen that was left to be chosen (data set, device, size of the validation split)
    command: str  # the module that runs it, for the message that says how to go on
    steps: int  # updates of the whole run
    dataset: Dataset
    tested: Tested | None  # the evaluation of the test split by ``finish``, of one network, for the report
    fingerprint: str  # SHA-256 of the data set, by which a resumed run knows that it is the same

    @property
    def parameters(self) -> FlatParameters[Any]:
        """See above."""

    @property
    def batches(self) -> BatchSource:
        """Training examples, in the order in which they are learned from."""

    def step_at(self, epoch: int, batch: int) -> int:
        """Updates made after ``epoch`` epochs and ``batch`` batches of the next; -1 where there is no such place."""

    def learning_rate(self, step: int) -> float:
        """Learning rate of step ``step``, counted from 0."""

    def engine(self, update: Update, stop_requested: Callable[[], bool]) -> StepEngine:
        """The engine that computes the run's steps, and takes a chunk of them where no scheduled hook is due at any.

        ``StepEngine(compute, update, stop_requested)`` does for every objective, where ``compute`` puts the gradient
        of a step into ``parameters.gradient``. It is called once a step with the batches of that step (several where
        ``config.accumulate`` > 1), in order. Random numbers are to come from a generator of the objective's own, whose
        state is in its ``saved()`` position, so that a resumed run draws what an uninterrupted one would. A step may
        have no tape; what gates of the objective need besides, it remembers for them. Raises ``ConfigError`` at
        construction, not here, where several processes cannot share a step because it is no mean over examples.
        """

    def hooks(self, state: RunState, policy: FailurePolicy) -> StepHooks:
        """Hooks and gates of this process, by the schedules of ``config``; gates count and refuse by ``policy``."""

    def evaluate(self, split: str) -> Evaluation | None:
        """Evaluate the network as it is now, after every epoch, on ``"validation"`` or, to track it, ``"test"``.

        ``None`` where no split selects: then no checkpoint is called best, no early stopping applies, and the last
        weights are the result.
        """

    def epoch_values(self) -> Mapping[str, float]:
        """Further quantities of the epoch that ends, by the name of their record (``train/divergence``); resets them.

        Called on every process before the evaluation.
        The progress line shows them under the last part of their name.
        """

    def saved(self, *, best: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """Its part of a checkpoint, plain values and copies of tensors: content and position.

        The content is ``model`` (a state dict), ``architecture``, ``normalization`` and whatever else describes the
        trained network, for the ``best`` checkpoint as it was evaluated. The position, in ``last.pt`` alone, is
        everything besides weights and ``RunState`` that the next step depends on, such as the state of a generator.
        """

    def restore(self, content: Mapping[str, Any], path: Path) -> None:
        """Go on from a checkpoint: weights, and ``content["training"]["position"]`` where it has one.

        Raises ``CheckpointError`` naming ``path``.
        """

    def first_records(self) -> Iterable[Record]:
        """Records of step 0: data, pictures of the initial weights."""

    def finish(self, state: RunState, folder: RunFolder) -> Result:
        """End of the run, on the writer alone: final evaluation, certificate.

        Called with ``state.finished`` set and the last checkpoint written; again if a run that had ended is resumed
        (``folder.ended_before``), with the same result and without counting an evaluation of the test split twice.
        Writes what belongs to it into ``folder``; the run writes ``summary.json`` from the result.
        """

    def illustrate(self, state: RunState, result: Any, folder: RunFolder) -> None:
        """Records and files that the result, which is told before, need not wait for: pictures, model card."""
