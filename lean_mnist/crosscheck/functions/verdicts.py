"""What a rule says: a verdict, the words for it, and where something is wrong a diagnosis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from lean_mnist.crosscheck.functions.diagnosis import Diagnosis


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
