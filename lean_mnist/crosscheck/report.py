"""Findings, each a verdict with its words and a diagnosis, and the reports that hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.crosscheck.diagnosis.kinds import Diagnosis, Kind
from lean_mnist.crosscheck.verdicts import Severity as Severity
from lean_mnist.crosscheck.verdicts import Verdict as Verdict
from lean_mnist.errors import ArgumentError, GradientMismatch

if TYPE_CHECKING:
    from lean_mnist.crosscheck.bundle import Question

OUTPUT, GRADIENT, GRADCHECK = "output", "gradient", "gradcheck"  # rules that reports have attributes for


@dataclass(frozen=True)
class Finding:
    """One line of a report: what a rule found of ``subject``, the name of an input or output.

    ``divergence`` is set where the finding is a comparison with the reference. ``points_to`` is the class of fault that
    the rule itself points to, whatever the wrong values look like. ``severity`` is that of the rule, unless given.
    """

    verdict: Verdict
    text: str
    subject: str = ""
    diagnosis: Diagnosis | None = None
    rule: str = ""
    divergence: Divergence | None = None
    points_to: Kind | None = None
    severity: Severity | None = None
    oracle: bool = False  # whether the rule can tell a first-order gradient from a wrong one

    @property
    def label(self) -> str:
        """The severity of what failed and of notes, else the verdict."""
        severity = self.severity or Severity.ERROR
        if self.verdict is Verdict.FAILED or severity is Severity.NOTE:
            return severity.name
        return self.verdict.value

    @property
    def line(self) -> str:
        """The rule, the subject and the text."""
        if self.divergence is not None:  # it names the subject itself
            return self.text
        return f"{self.rule}, {self.subject}: {self.text}" if self.subject else f"{self.rule}: {self.text}"

    def __str__(self) -> str:
        return f"{self.label}  {self.line}" + (f"; {self.diagnosis}" if self.diagnosis else "")


# Arguments: the text, the subject, the diagnosis.
passed = partial(Finding, Verdict.PASSED)
failed = partial(Finding, Verdict.FAILED)
kink = partial(Finding, Verdict.KINK)
not_applicable = partial(Finding, Verdict.NOT_APPLICABLE)
note = partial(Finding, Verdict.NOT_APPLICABLE, severity=Severity.NOTE)


@dataclass(frozen=True)
class Report:
    """Findings in the order of the rules, and the verdict that they amount to."""

    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """``FAILED``, ``INCONCLUSIVE`` where no oracle applied, or ``PASSED``. A kink is no failure."""
        raise NotImplementedError

    @property
    def ok(self) -> bool:
        """True if the verdict is ``PASSED``: something looked, and nothing failed that counts."""
        return self.verdict is Verdict.PASSED

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that failed and count as failures."""
        return self._failed(Severity.ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that failed with severity ``WARNING``, whether or not they count as failures."""
        return tuple(f for f in self._failed(Severity.WARNING) if f.severity is Severity.WARNING)

    def _failed(self, least: Severity) -> tuple[Finding, ...]:
        return tuple(
            finding
            for finding in self.findings
            if finding.verdict is Verdict.FAILED and (finding.severity or Severity.ERROR).rank <= least.rank
        )

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

    def _lines(self) -> list[str]:
        """The findings, gravest first."""

        def rank(finding: Finding) -> tuple[int, int]:
            return finding.verdict.rank, (finding.severity or Severity.ERROR).rank

        return [f"  {finding}" for finding in sorted(self.findings, key=rank)]


@dataclass(frozen=True)
class FunctionReport(Report):
    """The findings of ``check_function``: ``print`` it, ask ``ok``, ``raise_if_failed()``, or ``save_bundle(path)``."""

    seed: int = 0
    note: str = ""  # how much the probes are worth, and what was not checked
    fail_on: Severity = Severity.ERROR
    intended: str = ""  # why the gradient is meant to be another than the derivative
    judged_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by input, the oracles that applied
    oracles: tuple[str, ...] = ()  # that were asked
    question: Question | None = field(default=None, repr=False, compare=False)

    @property
    def verdict(self) -> Verdict:
        """``FAILED`` by what is as grave as ``fail_on``; ``INCONCLUSIVE`` where some input was judged by no oracle."""
        if self.failures:
            return Verdict.FAILED
        return Verdict.INCONCLUSIVE if self.unjudged and not self.intended else Verdict.PASSED

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that failed, as grave as ``fail_on`` or graver."""
        return self._failed(self.fail_on)

    @property
    def unjudged(self) -> tuple[str, ...]:
        """The checked inputs whose gradient no oracle could tell from a wrong one."""
        return tuple(name for name, oracles in self.judged_by.items() if not oracles)

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
        """Raise ``GradientMismatch`` with this report as its message unless it is ``ok``."""
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
        return "\n".join([f"{self._headline} (seed {self.seed})", *self._lines(), *note])

    @property
    def _headline(self) -> str:
        if self.verdict is Verdict.INCONCLUSIVE:
            return f"INCONCLUSIVE: of {len(self.oracles)} oracles none applied to {', '.join(self.unjudged)}"
        warned = len(self.warnings) if self.verdict is Verdict.PASSED else 0
        return self.verdict.value + f" with {warned} warning{'s' * (warned > 1)}" * (warned > 0)


@dataclass(frozen=True)
class ModuleReport(Report):
    """The findings about one call of one module, in forward number ``step``; the check took ``seconds``."""

    step: int
    module: str
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """``FAILED``, ``PASSED`` if differences or a reference agree, else ``INCONCLUSIVE`` or ``NOT_APPLICABLE``."""
        if self.failures:
            return Verdict.FAILED
        if all(finding.verdict is Verdict.NOT_APPLICABLE for finding in self.findings):
            return Verdict.NOT_APPLICABLE
        judged = any(f.oracle and f.verdict in (Verdict.PASSED, Verdict.KINK) for f in self.findings)
        return Verdict.PASSED if judged else Verdict.INCONCLUSIVE

    @property
    def checked(self) -> bool:
        """True if the gradients were held against an oracle."""
        return self.verdict in (Verdict.FAILED, Verdict.PASSED)

    def __str__(self) -> str:
        return "\n".join([f"{self.module}, forward {self.step}: {self.verdict.value}", *self._lines()])
