"""Where a run stands: everything besides weights and optimizer that a checkpoint must hold to continue bit for bit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lean_mnist.audit import AuditResult, GradcheckVerdict, RandomisedResult


@dataclass
class CheckLedger:
    """What the checks of a run have found so far; its ``verdict`` travels in every checkpoint."""

    screens: int = 0  # steps screened
    close_looks: int = 0  # of them row by row
    largest_screen_share: float = 0.0  # of what rounding explains
    comparisons: int = 0
    gradchecks: int = 0
    kinks: int = 0  # gradchecks that could not be done because of kinks
    failures: int = 0
    first_failure: str = ""
    largest_divergence: float = 0.0  # of any tensor at any checked step, relative
    largest_at: str = ""  # tensor and step
    largest_share: float = 0.0  # of what rounding explains
    largest_bound: float = 0.0  # proved: no audited gradient was farther than this, relatively, from the exact one
    largest_bound_at: str = ""  # tensor and step
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """``passed``, ``failed``, or ``unchecked`` where no check was due so far."""
        if self.failures:
            return "failed"
        return "passed" if self.screens or self.comparisons or self.gradchecks else "unchecked"

    def screened(self, result: RandomisedResult) -> None:
        """Count one screened step; if it failed, ``failed`` is told as well, with the explanation."""
        self.screens += 1
        self.seconds += result.seconds
        if result.per_row:  # the batched check has no thresholds, only an idea of what is ordinary
            self.close_looks += 1
            self.largest_screen_share = max(self.largest_screen_share, result.share)

    def failed(self, step: int, message: str) -> None:
        """Count one failure."""
        self.failures += 1
        self.first_failure = self.first_failure or f"step {step}: {message}"

    def enter(self, step: int, result: AuditResult) -> None:
        """Count one check."""
        self.comparisons += bool(result.divergences)
        self.seconds += result.seconds
        if result.gradcheck is not None:
            self.gradchecks += result.gradcheck.verdict is not GradcheckVerdict.KINK
            self.kinks += result.gradcheck.verdict is GradcheckVerdict.KINK
        for divergence in result.divergences[1:]:  # the first is the loss
            if not divergence.value <= self.largest_divergence:
                self.largest_divergence, self.largest_at = divergence.value, f"{divergence.name}, step {step}"
            if not divergence.share <= self.largest_share:
                self.largest_share = divergence.share
        for bound in result.bounds:
            if not bound.relative.upper <= self.largest_bound:
                self.largest_bound, self.largest_bound_at = bound.relative.upper, f"{bound.name}, step {step}"
        if not result.passed:
            self.failed(step, result.message)

    def to_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, **dataclasses.asdict(self)}

    def of_rank(self, rank: int) -> CheckLedger:
        """For one of several processes to go on with; the failures so far stand in that of the first."""
        return dataclasses.replace(self) if rank == 0 else dataclasses.replace(self, failures=0, first_failure="")

    def merged(self, ledgers: Sequence[CheckLedger]) -> CheckLedger:
        """What all processes of a run have found, each on its part of the same steps; ``self`` as it was merged before.

        A step that several of them checked counts once, a failure for each of them.
        """
        if len(ledgers) == 1:
            return ledgers[0]

        def most(name: str) -> Any:  # NaN is more than any number
            return max((getattr(ledger, name) for ledger in ledgers), key=_size)

        farthest = max(ledgers, key=lambda ledger: _size(ledger.largest_divergence))
        widest = max(ledgers, key=lambda ledger: _size(ledger.largest_bound))
        told = (f"rank {rank}: {ledger.first_failure}" for rank, ledger in enumerate(ledgers) if ledger.failures)
        return CheckLedger(
            **{name: most(name) for name in _OF_STEPS},
            failures=sum(ledger.failures for ledger in ledgers),
            first_failure=self.first_failure or next(told, ""),
            largest_divergence=farthest.largest_divergence,
            largest_at=farthest.largest_at,
            largest_bound=widest.largest_bound,
            largest_bound_at=widest.largest_bound_at,
        )


# Of which several processes together have as many as the one with most.
_OF_STEPS = (
    "screens", "close_looks", "largest_screen_share", "comparisons", "gradchecks", "kinks", "largest_share", "seconds",
)  # fmt: skip


def _size(value: float) -> float:
    return math.inf if math.isnan(value) else value


@dataclass
class Best:
    """The checkpoint that the validation split selected."""

    step: int
    epoch: int
    correct: int
    examples: int
    loss: float

    @property
    def accuracy(self) -> float:
        return self.correct / self.examples


@dataclass
class RunState:
    """Position in the data, sums of the epoch so far, best checkpoint, checks, and every look at the test split."""

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches of the present epoch already used
    step: int = 0  # updates made
    examples: int = 0
    epoch_loss_sum: float = 0.0
    epoch_examples: int = 0
    seconds: float = 0.0  # of training, over all sessions of the run
    best_accuracy: float = 0.0  # on the validation split, whether or not the checks let it be called best
    epochs_without_improvement: int = 0  # of that accuracy
    best: Best | None = None
    checks: CheckLedger = field(default_factory=CheckLedger)
    test_looks: list[dict[str, Any]] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    finished: str = ""  # why training ended; empty while it has not

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunState:
        """The inverse of ``to_dict``."""
        state = cls(**{**values, "checks": CheckLedger(**values["checks"])})
        state.best = None if values["best"] is None else Best(**values["best"])
        return state
