"""A finding: the verdict of one rule on one tensor, and what a user can do where it failed."""

from dataclasses import dataclass
from enum import Enum
from functools import partial

from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.crosscheck.diagnosis.kinds import Diagnosis, Kind
from lean_mnist.crosscheck.report.advice import DERIVATIVE, MEND

OUTPUT, GRADIENT, GRADCHECK = "output", "gradient", "gradcheck"  # rules that reports have attributes for
NO_RULES = ("backward", "intended", "compiled", "sharded")  # names that findings have and ``skip`` does not know
WHOSE = "the function whose derivative it is"
ITERATIVE = 1e-3  # an error below this may be that of an iterative solver


class _Ranked(Enum):
    """Members in the order of their gravity."""

    @property
    def rank(self) -> int:
        """0 for the gravest."""
        return list(type(self)).index(self)


class Verdict(_Ranked):
    """The verdict of one rule on one tensor, or of a report, gravest first. Only ``FAILED`` says that it is wrong."""

    FAILED = "FAILED"
    INCONCLUSIVE = "INCONCLUSIVE"  # no oracle applied, so that a wrong gradient would not have been seen
    KINK = "kink"  # not differentiable here: either side's slope is a right answer
    PASSED = "passed"
    NOT_APPLICABLE = "not applicable"


class Severity(_Ranked):
    """The weight of a failed rule, gravest first."""

    ERROR = "error"  # a first-order gradient is wrong, or not finite where the right one is
    WARNING = "warning"  # right as training usually calls it, silently wrong in a use that PyTorch allows
    NOTE = "note"  # worth knowing, nothing to mend


@dataclass(frozen=True)
class Finding:
    """One line of a report: what a rule found of ``subject``, the name of an input or output."""

    verdict: Verdict
    text: str
    subject: str = ""
    diagnosis: Diagnosis | None = None
    rule: str = ""
    divergence: Divergence | None = None  # where it is a comparison with the reference
    points_to: Kind | None = None  # the class of fault that the rule itself points to, whatever the values look like
    severity: Severity | None = None  # that of the rule, unless given
    oracle: bool = False  # whether the rule can tell a first-order gradient from a wrong one

    @property
    def label(self) -> str:
        """The severity of what failed and of notes, else the verdict."""
        severity = self.severity or Severity.ERROR
        if self.verdict is Verdict.FAILED or severity is Severity.NOTE:
            return severity.name
        return self.verdict.value

    @property
    def rank(self) -> tuple[int, int]:
        """The least for the gravest."""
        return self.verdict.rank, (self.severity or Severity.ERROR).rank

    @property
    def line(self) -> str:
        """The rule, the subject and the text."""
        if self.divergence is not None:  # it names the subject itself
            return self.text
        return f"{self.rule}, {self.subject}: {self.text}" if self.subject else f"{self.rule}: {self.text}"

    @property
    def mend(self) -> str:
        """The change to make, in a few words."""
        return MEND.get(self.rule, "mend it")

    @property
    def topic(self) -> str:
        """The thing that a user would mend: the same for all rules that judge a first-order gradient."""
        return MEND.get(self.rule, self.rule)

    @property
    def next_step(self) -> str:
        """The step to take where it failed: mend it, or the words to type where it is meant to be so; else empty."""
        if self.verdict is not Verdict.FAILED:
            return ""
        if self.mend is DERIVATIVE:
            off = self.divergence.value if self.divergence is not None else 1.0
            solver = f", or tolerance={2 * off:.0e} for an iterative solver" if off < ITERATIVE else ""
            return f'{self.mend}; if it is meant to be so: intended="surrogate", or derivative_of={WHOSE}{solver}'
        return self.mend if self.rule in NO_RULES else f'{self.mend}; if it is meant to be so: skip=["{self.rule}"]'

    def __str__(self) -> str:
        return f"{self.label}  {self.line}" + (f"; {self.diagnosis}" if self.diagnosis else "")


# Arguments: the text, the subject, the diagnosis.
passed = partial(Finding, Verdict.PASSED)
failed = partial(Finding, Verdict.FAILED)
kink = partial(Finding, Verdict.KINK)
not_applicable = partial(Finding, Verdict.NOT_APPLICABLE)
note = partial(Finding, Verdict.NOT_APPLICABLE, severity=Severity.NOTE)
