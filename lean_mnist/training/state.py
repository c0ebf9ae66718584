"""State of a run: all that a checkpoint holds, besides weights and optimizer, to continue bit for bit.

The names of the fields are those in checkpoints and in ``summary.json``.
"""

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context
from typing import Annotated, Any

from msgspec import Meta

from lean_mnist.audit.gradcheck_piece import GradcheckVerdict
from lean_mnist.audit.randomised import RandomisedResult
from lean_mnist.audit.step_audit import AuditResult
from lean_mnist.crosscheck.comparison import or_infinity
from lean_mnist.reading.schema import Amount, Count, Share


class Verdict(str, enum.Enum):
    """Result of all checks of a run so far; a string where it is written into a file."""

    PASSED = "passed"
    FAILED = "failed"
    UNCHECKED = "unchecked"  # no check was due


@dataclass
class CheckSummary:
    """Findings of the checks of a run so far."""

    screens: Count = 0  # steps with a randomised check
    close_looks: Count = 0  # of them checked row by row
    largest_screen_share: float = 0.0  # of what rounding explains
    comparisons: Count = 0
    gradchecks: Count = 0
    kinks: Count = 0  # gradchecks that could not be done because of kinks
    failures: Count = 0
    first_failure: str = ""
    largest_divergence: float = 0.0  # of any tensor at any checked step, relative
    largest_at: str = ""  # tensor and step
    largest_share: float = 0.0  # of what rounding explains
    largest_bound: float = 0.0  # proved: no audited gradient was farther than this, relatively, from the exact one
    largest_bound_at: str = ""  # tensor and step
    transient: Count = 0  # faults that were gone when the step was computed again
    seconds: Amount = 0.0

    @property
    def verdict(self) -> Verdict:
        """The result so far."""
        if self.failures:
            return Verdict.FAILED
        return Verdict.PASSED if self.screens or self.comparisons or self.gradchecks else Verdict.UNCHECKED

    @property
    def proved_bound(self) -> str:
        """``largest_bound`` in two digits, rounded up; empty where an audited gradient has none."""
        if self.failures or not 0 < self.largest_bound < math.inf:
            return ""
        return f"{float(Context(2, ROUND_CEILING).create_decimal(self.largest_bound)):.1e}"

    def add_screen(self, result: RandomisedResult) -> None:
        """Count one randomised check. A failure is counted by ``add_failure``, with its explanation."""
        self.add_screens(1, result.seconds)
        if result.per_row:  # a batched check has no thresholds, only an idea of what is ordinary
            self.close_looks += 1
            self.largest_screen_share = max(self.largest_screen_share, result.share, key=or_infinity)

    def add_screens(self, steps: int, seconds: float) -> None:
        """Count the batched checks of steps of a chunk, at none of which anything stood out."""
        self.screens += steps
        self.seconds += seconds

    def add_failure(self, step: int, message: str) -> None:
        """Count one failure."""
        self.failures += 1
        self.first_failure = self.first_failure or f"step {step}: {message}"

    def add_comparison(self, step: int, result: AuditResult) -> None:
        """Count one comparison with the reference, or gradcheck, or both."""
        self.comparisons += bool(result.divergences)
        self.seconds += result.seconds
        if result.gradcheck is not None:
            self.gradchecks += result.gradcheck.verdict is not GradcheckVerdict.KINK
            self.kinks += result.gradcheck.verdict is GradcheckVerdict.KINK
        for divergence in result.divergences[1:]:  # the first is the loss
            if or_infinity(divergence.value) > or_infinity(self.largest_divergence):
                self.largest_divergence, self.largest_at = divergence.value, f"{divergence.name}, step {step}"
            self.largest_share = max(self.largest_share, divergence.share, key=or_infinity)
        for bound in result.bounds:
            if or_infinity(bound.relative) > or_infinity(self.largest_bound):
                self.largest_bound, self.largest_bound_at = bound.relative, f"{bound.name}, step {step}"
        if not result.passed:
            self.add_failure(step, result.message)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"verdict": self.verdict.value, **dataclasses.asdict(self)}

    def of_rank(self, rank: int) -> "CheckSummary":
        """A copy for one of several processes to go on with; the faults so far are kept in that of rank 0."""
        if rank == 0:
            return dataclasses.replace(self)
        return dataclasses.replace(self, failures=0, first_failure="", transient=0)

    def merged(self, found: "Sequence[CheckSummary]") -> "CheckSummary":
        """Findings of all processes, each on its part of the same steps; ``self`` as merged before.

        A step that several of them checked counts once, a fault for each of them.
        """
        if len(found) == 1:
            return found[0]
        farthest = max(found, key=lambda one: or_infinity(one.largest_divergence))
        widest = max(found, key=lambda one: or_infinity(one.largest_bound))
        told = (f"rank {rank}: {one.first_failure}" for rank, one in enumerate(found) if one.failures)
        return dataclasses.replace(
            farthest,
            **{name: max((getattr(one, name) for one in found), key=or_infinity) for name in _OF_STEPS},
            **{name: sum(getattr(one, name) for one in found) for name in ("failures", "transient")},
            first_failure=self.first_failure or next(told, ""),
            largest_bound=widest.largest_bound,
            largest_bound_at=widest.largest_bound_at,
        )


# Merged by their largest value: several processes count the same steps.
_OF_STEPS = (
    "screens", "close_looks", "largest_screen_share", "comparisons", "gradchecks", "kinks", "largest_share", "seconds",
)  # fmt: skip


@dataclass
class Best:
    """The checkpoint that the validation split selected."""

    step: Count
    epoch: Count
    correct: Count
    examples: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
    loss: float

    @property
    def accuracy(self) -> float:
        """Share of the validation examples."""
        return self.correct / self.examples


@dataclass
class RunState:
    """Position in the data, sums of the epoch so far, best checkpoint, checks, every evaluation of the test split."""

    epoch: Count = 0  # epochs finished
    batch: Count = 0  # batches of the present epoch already used
    step: Count = 0  # updates made
    examples: Count = 0
    epoch_loss_sum: float = 0.0
    epoch_examples: Count = 0
    seconds: Amount = 0.0  # of training, over all sessions of the run
    best_accuracy: Share = 0.0  # on the validation split, whether or not the checks let it be called best
    epochs_without_improvement: Count = 0  # of that accuracy
    best: Best | None = None
    checks: CheckSummary = field(default_factory=CheckSummary)
    test_looks: list[dict[str, Any]] = field(default_factory=list)
    adaptive: bool = False  # whether their results were known when it was decided to train from there
    warned: list[str] = field(default_factory=list)
    rollbacks: Count = 0  # returns to the last end of an epoch, after each of which the learning rate is lower
    finished: str = ""  # why training ended; empty while it has not

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    def count(self, batches: int, examples: int, loss: float) -> None:
        """Count one update, of so many batches and examples, with their mean loss."""
        self.step += 1
        self.batch += batches
        self.examples += examples
        self.epoch_examples += examples
        self.epoch_loss_sum += loss * examples

    def end_epoch(self) -> float:
        """Go to the start of the next epoch; returns the mean training loss of the one that ended."""
        mean = self.epoch_loss_sum / self.epoch_examples
        self.epoch, self.batch, self.epoch_loss_sum, self.epoch_examples = self.epoch + 1, 0, 0.0, 0
        return mean

    def enter_test(self, purpose: str, errors: int) -> None:
        """Enter an evaluation of the test split, paid for by certificates; ``purpose`` is ``track`` or ``final``."""
        self.test_looks.append({"step": self.step, "purpose": purpose, "errors": errors})

    def known_looks(self, looks: Sequence[Mapping[str, Any]], step: int | None = None) -> None:
        """Take evaluations of the test split that were known before it was decided to train on, or from there.

        None of them is the final one any more; with ``step`` they were made elsewhere, before that step.
        """
        self.test_looks = [
            {"step": look["step"] if step is None else step, "purpose": "track", "errors": look["errors"]}
            for look in looks
        ]
        self.adaptive = self.adaptive or bool(looks)
