"""What ``check_function`` found, to be printed, asked, raised or kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.crosscheck.functions.verdicts import Finding, Verdict, failing_first
from lean_mnist.errors import ArgumentError, GradientMismatch

if TYPE_CHECKING:
    from lean_mnist.crosscheck.functions.bundle import Question


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
        from lean_mnist.crosscheck.functions.bundle import save_bundle

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
