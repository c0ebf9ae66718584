"""Findings, each a verdict with its words and a diagnosis, and the reports that hold them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.crosscheck.diagnosis.kinds import Diagnosis, Kind
from lean_mnist.errors import ArgumentError, GradientMismatch

if TYPE_CHECKING:
    from lean_mnist.crosscheck.bundle import Question

OUTPUT, GRADIENT, GRADCHECK = "output", "gradient", "gradcheck"  # rules that reports have attributes for


class Verdict(Enum):
    """The verdict of one rule on one tensor, gravest first. Only ``FAILED`` says that the Function is wrong."""

    FAILED = "FAILED"
    KINK = "kink"  # not differentiable here: either side's slope is a right answer
    PASSED = "passed"
    NOT_APPLICABLE = "not applicable"

    @property
    def rank(self) -> int:
        """0 for the gravest."""
        return list(Verdict).index(self)


@dataclass(frozen=True)
class Finding:
    """One line of a report: what a rule found of ``subject``, the name of an input or output.

    ``divergence`` is set where the finding is a comparison with the reference. ``points_to`` is the class of fault that
    the rule itself points to, whatever the wrong values look like.
    """

    verdict: Verdict
    text: str
    subject: str = ""
    diagnosis: Diagnosis | None = None
    rule: str = ""
    divergence: Divergence | None = None
    points_to: Kind | None = None

    @property
    def line(self) -> str:
        """The rule, the subject and the text."""
        if self.divergence is not None:  # it names the subject itself
            return self.text
        return f"{self.rule}, {self.subject}: {self.text}" if self.subject else f"{self.rule}: {self.text}"

    def __str__(self) -> str:
        return f"{self.verdict.value}  {self.line}" + (f"; {self.diagnosis}" if self.diagnosis else "")


# Arguments: the text, the subject, the diagnosis.
passed = partial(Finding, Verdict.PASSED)
failed = partial(Finding, Verdict.FAILED)
kink = partial(Finding, Verdict.KINK)
not_applicable = partial(Finding, Verdict.NOT_APPLICABLE)


@dataclass(frozen=True)
class Report:
    """Findings in the order of the rules, and whether anything failed."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Nothing failed. A kink is no failure, nor is a rule that does not apply."""
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that failed."""
        return tuple(finding for finding in self.findings if finding.verdict is Verdict.FAILED)

    @property
    def likely_kind(self) -> Kind | None:
        """The class of fault that all failures together point to; ``None`` where nothing failed.

        A rule that changes one thing only (the layout, a second call) says more about the cause than the values of a
        gradient that happens to be wrong in that situation.
        """
        kinds = [finding.diagnosis.kind for finding in self.failures if finding.diagnosis is not None]
        if Kind.NAN in kinds:
            return Kind.NAN
        for finding in self.failures:
            if finding.points_to is not None:
                stale = finding.diagnosis is not None and finding.diagnosis.kind is Kind.STALE_VALUE
                return Kind.STALE_VALUE if stale else finding.points_to
        if Kind.UPSTREAM_IGNORED in kinds:
            return Kind.UPSTREAM_IGNORED
        return kinds[0] if kinds else Kind.WRONG_VALUES if self.failures else None

    @property
    def _verdict(self) -> str:
        return Verdict.PASSED.value if self.ok else Verdict.FAILED.value

    def _lines(self) -> list[str]:
        """The findings, gravest first."""
        return [f"  {finding}" for finding in sorted(self.findings, key=lambda finding: finding.verdict.rank)]


@dataclass(frozen=True)
class FunctionReport(Report):
    """The findings of ``check_function``: ``print`` it, ask ``ok``, ``raise_if_failed()``, or ``save_bundle(path)``."""

    seed: int = 0
    note: str = ""  # how much the probes are worth, and what was not checked
    question: Question | None = field(default=None, repr=False, compare=False)

    @property
    def outputs(self) -> tuple[Divergence, ...]:
        """The comparison of each output with the reference's; empty without a reference."""
        return self._divergences(OUTPUT)

    @property
    def gradients(self) -> tuple[Divergence, ...]:
        """The comparison of each checked input's gradient with the reference's, the worst over all probes."""
        return self._divergences(GRADIENT)

    def _divergences(self, rule: str) -> tuple[Divergence, ...]:
        return tuple(f.divergence for f in self.findings if f.rule == rule and f.divergence is not None)

    @property
    def gradcheck(self) -> str:
        """``"passed"``, or why ``torch.autograd.gradcheck`` failed, met a kink, or was not run."""
        words = {Verdict.FAILED: "failed", Verdict.KINK: "kink", Verdict.NOT_APPLICABLE: "not run"}
        for finding in self.findings:
            if finding.rule == GRADCHECK:
                return "passed" if finding.verdict is Verdict.PASSED else f"{words[finding.verdict]}: {finding.text}"
        return "not run"

    def raise_if_failed(self) -> None:
        """Raise ``GradientMismatch`` with this report as its message unless everything passed."""
        if not self.ok:
            raise GradientMismatch(str(self))

    def save_bundle(self, path: str | Path) -> None:
        """Write inputs, seed, versions and verdict to ``path``: ``python -m lean_mnist.crosscheck.replay`` replays it.

        One ``torch.save`` file of plain values and tensors, which ``torch.load`` reads with its safe default.
        """
        from lean_mnist.crosscheck.bundle import save_bundle

        if self.question is None:
            raise ArgumentError("save_bundle: expected a report made by check_function, found one without its inputs")
        save_bundle(Path(path), self, self.question)

    def __str__(self) -> str:
        note = [f"  {self.note}"] if self.note else []
        return "\n".join([f"{self._verdict} (seed {self.seed})", *self._lines(), *note])


@dataclass(frozen=True)
class ModuleReport(Report):
    """The findings about one call of one module, in forward number ``step``; the check took ``seconds``."""

    step: int
    module: str
    seconds: float

    @property
    def checked(self) -> bool:
        """True if any rule could be applied."""
        return any(finding.verdict is not Verdict.NOT_APPLICABLE for finding in self.findings)

    def __str__(self) -> str:
        return "\n".join([f"{self.module}, forward {self.step}: {self._verdict}", *self._lines()])
