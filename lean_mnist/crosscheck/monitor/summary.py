"""The counts of a monitor."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MonitorSummary:
    """Counts of module calls by what became of them. ``print`` it."""

    forwards: int  # with gradients enabled
    passed: int
    failed: int
    inconclusive: int
    not_applicable: Mapping[str, int]  # by reason
    examples: Mapping[str, str]  # the first call of each reason
    intended: Mapping[str, tuple[str, ...]]  # by word, the Functions and where they are called
    never_met: tuple[str, ...]  # what an option names, and no forward has met
    bypassed: tuple[str, ...]  # modules whose call does not run their hooks
    seconds: float
    share: float  # of the time since the first checked forward

    @property
    def checked(self) -> int:
        """The number of calls held against an oracle."""
        return self.passed + self.failed

    def __str__(self) -> str:
        lines = [f"{self.checked or 'nothing was'} checked in {self.forwards} forwards"]
        lines[0] += f": {self.passed} passed, {self.failed} failed, {self.inconclusive} inconclusive"
        lines[0] += f", {sum(self.not_applicable.values())} not applicable"
        lines += [f"  {n} × {reason} (first: {self.examples[reason]})" for reason, n in self.not_applicable.items()]
        lines += [f"  {word}: {', '.join(where)}" for word, where in self.intended.items()]
        if self.never_met:
            lines.append(f"  named in an option and never met: {', '.join(self.never_met)}")
        if self.bypassed:
            lines.append(f"  called without their hooks, so seen only inside of others: {', '.join(self.bypassed)}")
        lines.append(f"  checks took {self.seconds:.2f} s, {self.share:.1%} of the time")
        return "\n".join(lines)
