"""The result of a self-test: the verdict on each mutant, the mutation score, and alarms with nothing planted."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lean_mnist.crosscheck.cases.table import aligned
from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.errors import GradientMismatch
from lean_mnist.mutants.mutant import PlantedBug

OURS = "the chain rule, its Functions, and Functions of other kinds"
Progress = Callable[[int, int, str], None]
"""``progress(done, total, what comes next)``; the last call has nothing next."""


class Fate(Enum):
    """Verdict on a planted mutant."""

    CAUGHT = "caught"  # at the latest where it first shows
    LATE = "late"
    ESCAPED = "escaped"
    NOT_SHOWN = "not shown"  # it made no difference


@dataclass(frozen=True)
class MutantResult:
    """Verdict on one planted mutant, and the evidence for it."""

    mutant: PlantedBug
    fate: Fate
    where: str = ""  # step or call at which it was caught
    checks: tuple[str, ...] = ()  # that failed there
    message: str = ""
    kind: Kind | None = None  # diagnosed there
    shown_at: int | None = None  # first training step whose gradient it made wrong, where training is what shows it
    caught_at: int | None = None  # first training step that a check refused

    @property
    def caught(self) -> bool:
        """Caught at the latest where it first shows."""
        return self.fate is Fate.CAUGHT

    @property
    def refused(self) -> bool:
        """Caught, be it too late."""
        return self.fate in (Fate.CAUGHT, Fate.LATE)

    @property
    def named_rightly(self) -> bool:
        """True if the diagnosis made at the first catch gives the fault its true class."""
        return self.kind in self.mutant.kinds

    @property
    def called(self) -> str:
        """Name of the class diagnosed; empty where none was."""
        return "" if self.kind is None else self.kind.value


@dataclass(frozen=True)
class SelftestReport:
    """``print`` it, ask ``ok``, or ``raise_if_failed()``."""

    target: str
    results: tuple[MutantResult, ...]
    false_alarms: tuple[str, ...]  # messages of checks with nothing planted; with any, no score means anything
    controls: int  # how many such checks were made
    seconds: float
    seed: int

    @property
    def ok(self) -> bool:
        """Some mutant shows, each that does was caught where it first does, and nothing was refused that was right."""
        return bool(self.shown) and not self.false_alarms and not self.missed

    @property
    def missed(self) -> list[MutantResult]:
        """Mutants that were not caught; those that made no difference count only in our own code, where all must."""
        excused = (Fate.CAUGHT,) if self.target == OURS else (Fate.CAUGHT, Fate.NOT_SHOWN)
        return [result for result in self.results if result.fate not in excused]

    @property
    def shown(self) -> list[MutantResult]:
        """All but those that made no difference to this target."""
        return [result for result in self.results if result.fate is not Fate.NOT_SHOWN]

    @property
    def score(self) -> float:
        """Caught / shown."""
        return sum(result.caught for result in self.shown) / max(1, len(self.shown))

    @property
    def diagnosed(self) -> tuple[int, int]:
        """Number of mutants given their true class, and of those refused."""
        refused = [result for result in self.results if result.refused]
        return sum(result.named_rightly for result in refused), len(refused)

    def by_group(self) -> dict[str, tuple[int, int]]:
        """Caught and shown, for each group of mutants."""
        shown = Counter(result.mutant.group for result in self.shown)
        caught = Counter(result.mutant.group for result in self.shown if result.caught)
        return {group: (caught[group], count) for group, count in shown.items()}

    @property
    def verdict(self) -> str:
        """One line."""
        if self.false_alarms:
            return f"FAILED: with nothing planted, {len(self.false_alarms)} of {self.controls} controls were refused"
        caught, unshown = sum(result.caught for result in self.shown), len(self.results) - len(self.shown)
        return (
            f"{'passed' if self.ok else 'FAILED'}: {caught} of {len(self.shown)} planted bugs caught where they first "
            f"show{f', {unshown} make no difference here' if unshown else ''}; "
            f"no false alarm in {self.controls} controls (seed {self.seed}, {self.seconds:.0f} s)"
        )

    def raise_if_failed(self) -> None:
        """Raise ``GradientMismatch``, whose exit status is 3, unless ``ok``."""
        if not self.ok:
            missed = ", ".join(result.mutant.name for result in self.missed)
            raise GradientMismatch("; ".join(filter(None, [self.verdict, *self.false_alarms, missed])))

    def __str__(self) -> str:
        rows = [("mutant", "shows", "verdict", "where", "by", "diagnosed as")]
        rows += [
            (r.mutant.name, r.mutant.condition, r.fate.value, r.where, ", ".join(r.checks), r.called)
            for r in self.results
        ]
        groups = [("group", "caught"), *((group, f"{a}/{b}") for group, (a, b) in self.by_group().items())]
        lines = [f"planted in {self.target}", "", *aligned(rows), "", *aligned(groups), ""]
        lines += [f"{r.mutant.name}: {r.mutant.description}: {r.fate.value}. {r.message}" for r in self.missed]
        right, of = self.diagnosed
        if of:
            misnamed = [
                (r.mutant.name, " or ".join(kind.value for kind in r.mutant.kinds), r.called or "nothing")
                for r in self.results
                if r.refused and not r.named_rightly
            ]
            lines += [f"diagnosed rightly at the first catch: {right} of {of} ({right / of:.0%})"]
            lines += [*aligned([("not so", "is", "was called"), *misnamed]), ""] if misnamed else [""]
        lines += [f"false alarm: {alarm}" for alarm in self.false_alarms]
        return "\n".join([*lines, self.verdict])

    def to_json(self, **more: Any) -> str:
        """One JSON document, with ``more`` values in it."""
        document: dict[str, Any] = {
            **more,
            "target": self.target,
            "ok": self.ok,
            "score": self.score,
            "diagnosed": dict(zip(("right", "of"), self.diagnosed, strict=True)),
            "false_alarms": list(self.false_alarms),
            "controls": self.controls,
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
            "mutants": [
                {
                    **{key: getattr(r.mutant, key) for key in ("name", "description", "group", "condition", "source")},
                    "written_after_freeze": r.mutant.held_out,
                    "verdict": r.fate.value,
                    "where": r.where,
                    "checks": list(r.checks),
                    "shown_at": r.shown_at,
                    "caught_at": r.caught_at,
                    "message": r.message,
                    "kinds": [kind.value for kind in r.mutant.kinds],
                    "diagnosed_as": r.called,
                }
                for r in self.results
            ],
        }
        return json.dumps(document, indent=2, allow_nan=False)
