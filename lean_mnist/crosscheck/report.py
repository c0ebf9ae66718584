"""What ``check_function`` found, to be printed, asked, raised or kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.crosscheck.diagnosis.kinds import Diagnosis
from lean_mnist.errors import ArgumentError, GradientMismatch

if TYPE_CHECKING:
    from lean_mnist.crosscheck.bundle import Question


class Verdict(Enum):
    """Of one rule on one tensor. Only ``FAILED`` says that the Function is wrong."""

    PASSED = "passed"
    FAILED = "FAILED"
    KINK = "kink"  # not differentiable here: either side's slope is a right answer
    NOT_APPLICABLE = "not applicable"


_FAILING_FIRST = {Verdict.FAILED: 0, Verdict.KINK: 1, Verdict.PASSED: 2, Verdict.NOT_APPLICABLE: 3}


@dataclass(frozen=True)
class Finding:
    """One line of a report: ``rule`` as in ``RULES``, the input or output it is about, and what was found."""

    rule: str
    verdict: Verdict
    text: str
    subject: str = ""
    diagnosis: Diagnosis | None = None

    def __str__(self) -> str:
        return f"{self.verdict.value}  {self.text}" + (f"; {self.diagnosis}" if self.diagnosis else "")


def failing_first(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: _FAILING_FIRST[finding.verdict])


def passed(rule: str, text: str = "", subject: str = "") -> Finding:
    return Finding(rule, Verdict.PASSED, _line(rule, subject, text), subject)


def failed(rule: str, text: str, subject: str = "", diagnosis: Diagnosis | None = None) -> Finding:
    return Finding(rule, Verdict.FAILED, _line(rule, subject, text), subject, diagnosis)


def kink(rule: str, text: str, subject: str = "") -> Finding:
    return Finding(rule, Verdict.KINK, _line(rule, subject, text), subject)


def not_applicable(rule: str, why: str, subject: str = "") -> Finding:
    return Finding(rule, Verdict.NOT_APPLICABLE, _line(rule, subject, why), subject)


def _line(rule: str, subject: str, text: str) -> str:
    head = f"{rule}, {subject}" if subject else rule
    return f"{head}: {text}" if text else head


@dataclass(frozen=True)
class FunctionReport:
    """What ``check_function`` found. ``print`` it, ask ``ok``, ``raise_if_failed()``, or ``save_bundle(path)``.

    ``outputs`` and ``gradients`` are the comparisons with the reference (empty without one), the worst over all probes;
    ``findings`` are the verdicts of all rules, these included.
    """

    outputs: tuple[Divergence, ...]
    gradients: tuple[Divergence, ...]
    gradcheck: str  # "passed", or why it failed, met a kink, or was not run
    seed: int
    findings: tuple[Finding, ...] = ()
    note: str = ""  # what the probes are worth, and what was not checked
    question: Question | None = field(default=None, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Nothing failed. A kink is no failure, nor is a rule that does not apply."""
        if not self.findings:
            everything_close = all(divergence.passed for divergence in (*self.outputs, *self.gradients))
            return everything_close and not self.gradcheck.startswith("failed")
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.verdict is Verdict.FAILED)

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
        lines = [f"{'passed' if self.ok else 'FAILED'} (seed {self.seed})"]
        if self.findings:
            lines += [f"  {finding}" for finding in failing_first(self.findings)]
        else:
            for divergence in (*self.outputs, *self.gradients):
                lines.append(f"  {'passed' if divergence.passed else 'FAILED'}  {divergence}")
            lines.append(f"  gradcheck: {self.gradcheck}")
        return "\n".join([*lines, f"  {self.note}"] if self.note else lines)
