"""Reports: findings in the order of the rules, the verdict that they amount to, in words and as JSON."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.crosscheck.diagnosis.kinds import Kind
from lean_mnist.crosscheck.report.finding import GRADCHECK, GRADIENT, OUTPUT, Finding, Severity, Verdict
from lean_mnist.crosscheck.subjects.calls import one_line
from lean_mnist.errors import ArgumentError, GradientMismatch
from lean_mnist.files import plain

if TYPE_CHECKING:
    from lean_mnist.crosscheck.bundles.bundle import Question

JSON_FORMAT, JSON_VERSION = "lean_mnist check report", 1
SHOWN, REASON = 3, 50  # topics, and findings of each, in full; letters of a reason why a rule does not apply


@dataclass(frozen=True)
class Report(ABC):
    """Findings in the order of the rules, and the verdict that they amount to."""

    findings: tuple[Finding, ...]

    @property
    @abstractmethod
    def verdict(self) -> Verdict:
        """``FAILED``, ``INCONCLUSIVE`` where no oracle applied, or ``PASSED``. A kink is no failure."""

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
        pointed = [finding.points_to for finding in self.failures]
        if Kind.UNINITIALISED in (*kinds, *pointed):  # it may be NaN or anything else
            return Kind.UNINITIALISED
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
    def headline(self) -> str:
        """The verdict and what it is about, in a line."""
        return self.verdict.value

    def details(self) -> str:
        """Every finding in full, gravest first."""
        return "\n".join(
            [self.headline, *(f"  {finding}" for finding in sorted(self.findings, key=lambda finding: finding.rank))]
        )

    def __str__(self) -> str:
        return "\n".join([self.headline, *(f"  {line}" for line in self._summary())])

    def _summary(self) -> list[str]:
        """Failures with their next steps, then what passed and what was not checked, in a line each."""
        failed = sorted((f for f in self.findings if f.verdict is Verdict.FAILED), key=lambda finding: finding.rank)
        topics = dict[tuple[str, str], list[Finding]]()
        for finding in failed:
            topics.setdefault((finding.label, finding.topic), []).append(finding)
        kind, first = self.likely_kind, failed[0].diagnosis if failed else None
        pointed = kind not in (None, Kind.WRONG_VALUES, first and first.kind)  # what a later rule says of the cause
        lines = [f"likely cause of all: {kind}"] if pointed else []
        for (label, _), alike in list(topics.items())[:SHOWN]:
            by_subject = {f.subject: f for f in reversed(alike)}
            if len(by_subject) > 1:
                by_subject.pop("", None)  # the same once more, of all inputs together
            shown = [f for f in alike if f is by_subject.get(f.subject)][:SHOWN]
            said = {(f.rule, f.subject) for f in shown}
            also = _names(f for f in alike if (f.rule, f.subject) not in said)
            lines += [*map(str, shown), *([f"{label}  also: {', '.join(also)}"] if also else [])]
            lines.append(f"       next: {self.next_step(alike[0])}")
        more = [f for alike in list(topics.values())[SHOWN:] for f in alike]
        lines += [f"{more[0].label}  also: {', '.join(_names(more))}; details() has the rest"] if more else []
        lines += [str(finding) for finding in self.findings if finding.verdict is Verdict.INCONCLUSIVE]
        wrong = {finding.rule for finding in failed}
        for verdict in (Verdict.KINK, Verdict.PASSED, Verdict.NOT_APPLICABLE):
            rest = [f for f in self.findings if f.verdict is verdict]
            lines += [str(f) for f in rest if f.severity is Severity.NOTE]
            names = _names(f for f in rest if f.severity is not Severity.NOTE and f.rule not in wrong)
            words = "not checked" if verdict is Verdict.NOT_APPLICABLE else verdict.value
            if verdict is Verdict.NOT_APPLICABLE and len(names) > SHOWN:
                names = [*dict.fromkeys(f.rule for f in rest if f.rule not in wrong)]
                words += ", for the reasons in details()"
            lines += [f"{words}: {', '.join(names)}"] if names else []
        return lines

    def next_step(self, finding: Finding) -> str:
        """The step to take where ``finding`` failed."""
        return finding.next_step

    def to_json(self) -> str:
        """One JSON document: the verdict, and every finding with its rule, severity, next step and diagnosis."""
        return json.dumps(self.content(), indent=2, allow_nan=False)

    def content(self) -> dict[str, Any]:
        """The document of ``to_json`` as plain values: enums by their values, numbers that are none as strings."""
        return {
            "format": JSON_FORMAT,
            "version": JSON_VERSION,
            "verdict": self.verdict.value,
            "ok": self.ok,
            "likely_kind": plain(self.likely_kind),
            "findings": [{**plain(finding), "next_step": self.next_step(finding)} for finding in self.findings],
        }


@dataclass(frozen=True)
class FunctionReport(Report):
    """The findings of ``check_function``: ``print`` it, ask ``ok``, ``raise_if_failed()``, or ``save_bundle(path)``."""

    seed: int = 0
    note: str = ""  # how much the probes are worth, and what was not checked
    fail_on: Severity = Severity.ERROR
    intended: str = ""  # why the gradient is meant to be another than the derivative
    judged_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by input, the oracles that applied
    oracles: tuple[str, ...] = ()  # that were asked
    question: "Question | None" = field(default=None, repr=False, compare=False)

    @property
    def verdict(self) -> Verdict:
        """``FAILED`` by what is as grave as ``fail_on``; ``INCONCLUSIVE`` where some input was judged by no oracle."""
        if self.failures:
            return Verdict.FAILED
        unjudged = self.unjudged and not self.intended
        return Verdict.INCONCLUSIVE if unjudged or self.doubted else Verdict.PASSED

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that failed, as grave as ``fail_on`` or graver."""
        return self._failed(self.fail_on)

    @property
    def unjudged(self) -> tuple[str, ...]:
        """The checked inputs whose gradient no oracle could tell from a wrong one."""
        return tuple(name for name, oracles in self.judged_by.items() if not oracles)

    @property
    def doubted(self) -> tuple[str, ...]:
        """The checked inputs about whose gradient the reference itself is wrong."""
        doubts = (finding.subject for finding in self.findings if finding.verdict is Verdict.INCONCLUSIVE)
        return tuple(dict.fromkeys(doubts))

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
        from lean_mnist.crosscheck.bundles.bundle import save_bundle

        if self.question is None:
            raise ArgumentError("save_bundle: expected a report made by check_function, found one without its inputs")
        save_bundle(Path(path), self, self.question)

    def details(self) -> str:
        """Every finding in full, gravest first, and how much the probes are worth."""
        return "\n".join([super().details(), *([f"  {self.note}"] if self.note else [])])

    def _summary(self) -> list[str]:
        return [*super()._summary(), *([self.note] if self.note else [])]

    def content(self) -> dict[str, Any]:
        """The document of ``to_json`` as plain values."""
        own = {
            name: plain(getattr(self, name)) for name in ("seed", "note", "fail_on", "intended", "judged_by", "oracles")
        }
        return {**super().content(), **own}

    @property
    def headline(self) -> str:
        """The verdict, the number of warnings or the inputs that nothing judged, and the seed."""
        if self.verdict is Verdict.INCONCLUSIVE:
            none = f"of {len(self.oracles)} oracles none applied to {', '.join(self.unjudged)}"
            words = f"INCONCLUSIVE: {none if self.unjudged else f'the reference is wrong about {self.doubted[0]}'}"
        else:
            told = {(f.rule, f.subject) for f in self.warnings}  # what is below; the same with other values is not
            warned = len(told) if self.verdict is Verdict.PASSED else 0
            words = self.verdict.value + f" with {warned} warning{'s' * (warned > 1)}" * (warned > 0)
        return f"{words} (seed {self.seed})"


@dataclass(frozen=True)
class ModuleReport(Report):
    """The findings about one call of one module, in forward number ``step``; the check took ``seconds``."""

    step: int
    module: str
    seconds: float
    path: str = ""  # of the module in the model

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

    def next_step(self, finding: Finding) -> str:
        """The step to take where ``finding`` failed, in the words of ``GradientMonitor``."""
        meant = f'intended={{"{self.path}": "surrogate"}} or ignore=["{self.path}"] of GradientMonitor'
        return f"{finding.mend}; if it is meant to be so: {meant}" if finding.next_step else ""

    @property
    def headline(self) -> str:
        """The module, the forward and the verdict."""
        return f"{self.module}, forward {self.step}: {self.verdict.value}"


def _names(findings: Iterable[Finding]) -> list[str]:
    """The rules, each with its subjects, and the reason where it does not apply."""
    named = dict[str, list[str]]()
    for finding in findings:
        detail = finding.text if finding.verdict is Verdict.NOT_APPLICABLE else finding.subject
        details = named.setdefault(finding.rule, [])
        if detail and detail not in details and finding.verdict is not Verdict.PASSED:
            details.append(detail)
    return [rule + f" ({one_line(', '.join(details), REASON)})" * bool(details) for rule, details in named.items()]
