"""The verdicts of rules and reports, and the weight of what failed."""

from enum import Enum


class Verdict(Enum):
    """The verdict of one rule on one tensor, or of a report, gravest first. Only ``FAILED`` says that it is wrong."""

    FAILED = "FAILED"
    INCONCLUSIVE = "INCONCLUSIVE"  # no oracle applied, so that a wrong gradient would not have been seen
    KINK = "kink"  # not differentiable here: either side's slope is a right answer
    PASSED = "passed"
    NOT_APPLICABLE = "not applicable"

    @property
    def rank(self) -> int:
        """0 for the gravest."""
        return list(Verdict).index(self)


class Severity(Enum):
    """The weight of a failed rule, gravest first."""

    ERROR = "error"  # a first-order gradient is wrong, or not finite where the right one is
    WARNING = "warning"  # right as training usually calls it, silently wrong in a use that PyTorch allows
    NOTE = "note"  # worth knowing, nothing to mend

    @property
    def rank(self) -> int:
        """0 for the gravest."""
        return list(Severity).index(self)
