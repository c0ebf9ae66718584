"""What a self-test found: each mutant's fate, the mutation score, and what the checks said with nothing planted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lean_mnist.errors import GradientMismatch
from lean_mnist.mutants.mutant import Mutant


@dataclass(frozen=True)
class Outcome:
    """What became of one planted mutant.

    ``shown_at`` is the first training step whose gradient it made wrong, ``caught_at`` the first that a check refused,
    ``None`` where training is not what shows it; ``where`` says where it was caught, ``checks`` which checks failed,
    ``kind`` the class that was diagnosed there.
    """

    mutant: Mutant
    verdict: str  # "caught", "late", "escaped" or "not shown"
    where: str = ""
    checks: tuple[str, ...] = ()
    message: str = ""
    shown_at: int | None = None
    caught_at: int | None = None
    kind: str = ""

    @property
    def named_rightly(self) -> bool:
        """Whether the diagnosis made at the first catch gives the fault its true class."""
        return self.kind in self.mutant.kinds

    @property
    def caught(self) -> bool:
        """Caught at the latest where it first shows."""
        return self.verdict == "caught"


@dataclass(frozen=True)
class SelftestReport:
    """``print`` it, ask ``ok``, or ``raise_if_failed()``.

    ``false_alarms`` is what checks said with nothing planted, of ``controls`` times they were asked; with any, no score
    means anything.
    """

    target: str
    outcomes: tuple[Outcome, ...]
    false_alarms: tuple[str, ...]
    controls: int
    seconds: float
    seed: int

    @property
    def ok(self) -> bool:
        """Every mutant that shows was caught where it first shows, and nothing was refused that was right."""
        return (
            not self.false_alarms and bool(self.outcomes) and all(o.verdict in _FINE[self.ours] for o in self.outcomes)
        )

    @property
    def ours(self) -> bool:
        """Whether the mutants were planted in this package, where every one of them must show."""
        return self.target == OURS

    @property
    def shown(self) -> tuple[Outcome, ...]:
        """All but those that made no difference to this target."""
        return tuple(o for o in self.outcomes if o.verdict != "not shown")

    @property
    def score(self) -> float:
        """Caught / shown."""
        return sum(o.caught for o in self.shown) / max(1, len(self.shown))

    @property
    def diagnosed(self) -> tuple[int, int]:
        """How many of the mutants that were refused were given their true class, and of how many."""
        refused = [o for o in self.shown if o.verdict in ("caught", "late") and o.mutant.kinds]
        return sum(o.named_rightly for o in refused), len(refused)

    def by(self, attribute: str) -> dict[str, tuple[int, int]]:
        """Caught and shown, for each value of ``"group"`` or ``"condition"``."""
        table: dict[str, tuple[int, int]] = {}
        for outcome in self.shown:
            key = getattr(outcome.mutant, attribute)
            caught, shown = table.get(key, (0, 0))
            table[key] = (caught + outcome.caught, shown + 1)
        return table

    @property
    def verdict(self) -> str:
        """One line."""
        if self.false_alarms:
            return f"FAILED: with nothing planted, {len(self.false_alarms)} of {self.controls} controls were refused"
        caught = sum(o.caught for o in self.shown)
        unshown = len(self.outcomes) - len(self.shown)
        return (
            f"{'passed' if self.ok else 'FAILED'}: {caught} of {len(self.shown)} planted bugs "
            + "caught where they first show"
            + (f", {unshown} make no difference here" if unshown else "")
            + f"; no false alarm in {self.controls} controls (seed {self.seed}, {self.seconds:.0f} s)"
        )

    def raise_if_failed(self) -> None:
        """Raise ``GradientMismatch``, whose exit status is 3, unless ``ok``."""
        if not self.ok:
            bad = [o.mutant.name for o in self.outcomes if o.verdict not in _FINE[self.ours]]
            raise GradientMismatch("; ".join(filter(None, [self.verdict, *self.false_alarms, ", ".join(bad)])))

    def __str__(self) -> str:
        rows = [
            (o.mutant.name, o.mutant.condition, o.verdict, o.where, ", ".join(o.checks), o.kind) for o in self.outcomes
        ]
        head = ("mutant", "shows", "verdict", "where", "by", "diagnosed as")
        lines = [f"planted in {self.target}", "", *_table(head, rows), ""]
        for attribute in ("group",):
            found = [(key, f"{caught}/{shown}") for key, (caught, shown) in self.by(attribute).items()]
            lines += [*_table((attribute, "caught"), found), ""]
        for outcome in self.outcomes:
            if outcome.verdict not in _FINE[self.ours]:
                lines.append(
                    f"{outcome.mutant.name}: {outcome.mutant.description}: {outcome.verdict}. {outcome.message}"
                )
        right, of = self.diagnosed
        if of:
            missed = [
                (o.mutant.name, " or ".join(o.mutant.kinds), o.kind or "nothing")
                for o in self.shown
                if o.verdict in ("caught", "late") and o.mutant.kinds and not o.named_rightly
            ]
            lines += [f"diagnosed rightly at the first catch: {right} of {of} ({right / of:.0%})"]
            lines += [*_table(("not so", "is", "was called"), missed), ""] if missed else [""]
        lines += [f"false alarm: {alarm}" for alarm in self.false_alarms]
        return "\n".join([*lines, self.verdict])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
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
                    "name": o.mutant.name,
                    "description": o.mutant.description,
                    "group": o.mutant.group,
                    "condition": o.mutant.condition,
                    "source": o.mutant.source,
                    "written_after_freeze": o.mutant.written_after_freeze,
                    "verdict": o.verdict,
                    "where": o.where,
                    "checks": list(o.checks),
                    "shown_at": o.shown_at,
                    "caught_at": o.caught_at,
                    "message": o.message,
                    "kinds": list(o.mutant.kinds),
                    "diagnosed_as": o.kind,
                }
                for o in self.outcomes
            ],
        }

    def to_json(self) -> str:
        """One JSON document."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


OURS = "the chain rule and its Functions"
Progress = Callable[[int, int, str], None]
"""``progress(done, total, what comes next)``; the last call has nothing next."""

_FINE = {True: ("caught",), False: ("caught", "not shown")}


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    rows = list(rows)
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
