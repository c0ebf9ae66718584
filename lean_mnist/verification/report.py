"""Running obligations, and the report of what they came to: a table for people, a document for programs."""

from __future__ import annotations

import json
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from lean_mnist.verification.model import WORDING, Obligation, ObligationFailed, Outcome, Vacuous
from lean_mnist.verification.table import TITLES, obligations, select, vacuous_statements

Progress = Callable[[int, int, str], None]  # how many are done, of how many, which is next ("" at the end)
_SHARES = (0.39, 0.27, 0.34)  # of what verdict and time leave: statement, source, how it is established
_VERDICT, _SECONDS, _GAP, _NARROWEST = 8, 6, 2, 88


@dataclass(frozen=True)
class Report:
    """What checking some or all obligations found."""

    outcomes: tuple[Outcome, ...]
    vacuous: tuple[Vacuous, ...]
    seconds: float

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if not outcome.as_expected]

    @property
    def ok(self) -> bool:
        return not self.failed

    @property
    def assumptions(self) -> dict[str, int]:
        """Each assumption, with the number of obligations that rest on it, in the order in which they are met."""
        counts: dict[str, int] = {}
        for outcome in self.outcomes:
            for assumption in outcome.obligation.assumptions:
                counts[assumption] = counts.get(assumption, 0) + 1
        return counts

    def raise_if_failed(self) -> None:
        """Raise ``ObligationFailed``, one line, unless everything is as expected."""
        if self.failed:
            names = ", ".join(f"{o.obligation.id} ({_word(o)})" for o in self.failed)
            raise ObligationFailed(f"{len(self.failed)} of {len(self.outcomes)} obligations failed: {names}")

    def to_json(self) -> str:
        """One JSON document: every obligation with its verdict, the vacuous statements, the assumptions."""
        verdicts = {outcome.obligation.id: outcome.verdict for outcome in self.outcomes}
        document: dict[str, Any] = {
            "ok": self.ok,
            "failed": [outcome.obligation.id for outcome in self.failed],
            "obligations": [_plain(outcome) for outcome in self.outcomes],
            "vacuous": [
                {
                    "source": v.source,
                    "says": v.says,
                    "established_by": [{"id": i, "verdict": verdicts.get(i, "not run")} for i in v.established_by],
                }
                for v in self.vacuous
            ],
            "assumptions": [{"assumption": text, "obligations": n} for text, n in self.assumptions.items()],
            "seconds": self.seconds,
            "versions": versions(),
        }
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)

    def text(self, width: int = 120) -> str:
        """The table, at most ``width`` columns wide (but never narrower than 88)."""
        width = max(width, _NARROWEST)
        ours = [outcome for outcome in self.outcomes if outcome.obligation.expected == "holds"]
        theirs = [outcome for outcome in self.outcomes if outcome.obligation.expected == "refuted"]
        lines: list[str] = []
        for group in dict.fromkeys(outcome.obligation.group for outcome in ours):
            lines += _table(TITLES[group], [o for o in ours if o.obligation.group == group], width)
        if theirs:
            lines += _table(TITLES["original"], theirs, width)
        if self.vacuous:
            lines += self._vacuous_lines(width)
        lines += ["Assumptions, and how many obligations rest on each", ""]
        for assumption, count in self.assumptions.items():
            lines += _wrap(assumption, width, initial_indent=f"{count:>4}  ", subsequent_indent=" " * 6)
        return "\n".join([*lines, "", *_wrap(self._summary(), width)])

    def __str__(self) -> str:
        return self.text()

    def _vacuous_lines(self, width: int) -> list[str]:
        verdicts = {outcome.obligation.id: _word(outcome) for outcome in self.outcomes}
        lines = ["Statements of the original that say less than their names", ""]
        for v in self.vacuous:
            here = ", ".join(f"{i} ({verdicts.get(i, 'not run')})" for i in v.established_by)
            lines += _wrap(f"{v.source}: {v.says}", width, initial_indent="  ", subsequent_indent="    ")
            lines += _wrap(f"here: {here}", width, initial_indent="    ", subsequent_indent="    ")
        return [*lines, ""]

    def _summary(self) -> str:
        ours = [o for o in self.outcomes if o.obligation.expected == "holds"]
        refuted = [o for o in self.outcomes if o.obligation.expected == "refuted" and o.as_expected]
        good = [o for o in ours if o.as_expected]
        words = {**WORDING, "property test": "checked on cases"}
        counts = {word: sum(1 for o in good if o.obligation.how == how) for how, word in words.items()}
        parts = [f"{len(good)} of {len(ours)} obligations hold"] if ours else []
        if good:
            parts[-1] += f" ({', '.join(f'{count} {word}' for word, count in counts.items() if count)})"
        if refuted:
            parts.append(f"{len(refuted)} false statements of the original refuted")
        if self.failed:
            parts.append(f"{len(self.failed)} FAILED: {', '.join(o.obligation.id for o in self.failed)}")
        return f"{'; '.join(parts)}; {self.seconds:.1f} s"


def verify(only: str | None = None, progress: Progress | None = None) -> Report:
    """Check all obligations, or those that ``only`` picks (see ``select``); raises ``ConfigError`` if it picks none."""
    started = time.perf_counter()
    chosen = obligations() if only is None else select(obligations(), only)
    outcomes = tuple(_checked(chosen, progress))
    ran = {obligation.id for obligation in chosen}
    vacuous = tuple(v for v in vacuous_statements() if not ran.isdisjoint(v.established_by))
    return Report(outcomes, vacuous, time.perf_counter() - started)


def versions() -> dict[str, str]:
    """Of what the verdicts rest on."""
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "sympy", "numpy")},
    }


def _checked(chosen: Sequence[Obligation], progress: Progress | None) -> Iterator[Outcome]:
    for done, obligation in enumerate(chosen):
        if progress is not None:
            progress(done, len(chosen), obligation.id)
        yield obligation.check()
    if progress is not None:
        progress(len(chosen), len(chosen), "")


def _word(outcome: Outcome) -> str:
    """The verdict, loud where it is not the expected one."""
    return outcome.verdict if outcome.as_expected else outcome.verdict.upper()


def _plain(outcome: Outcome) -> dict[str, Any]:
    o = outcome.obligation
    return {
        "id": o.id,
        "group": o.group,
        "statement": o.statement,
        "source": o.source,
        "how": o.how,
        "scope": o.scope,
        "established": o.established,
        "assumptions": list(o.assumptions),
        "expected": o.expected,
        "verdict": outcome.verdict,
        "as_expected": outcome.as_expected,
        "detail": outcome.detail,
        "counterexample": outcome.counterexample or None,
        "seconds": outcome.seconds,
    }


def _table(title: str, outcomes: Sequence[Outcome], width: int) -> list[str]:
    widths = [int(share * (width - _VERDICT - _SECONDS - 4 * _GAP)) for share in _SHARES]
    lines = [title, "", _row(["statement", "source", "how, and for what", "verdict", "time"], widths)]
    lines.append(_row(["─" * n for n in (*widths, _VERDICT, _SECONDS)], widths))
    for outcome in outcomes:
        o = outcome.obligation
        statement = [*_wrap(o.id, widths[0]), *_wrap(o.statement, widths[0] - 2)]
        # What was meant to be done establishes nothing where it failed.
        established = o.established if outcome.as_expected else "not established"
        columns = [
            [statement[0], *(f"  {line}" for line in statement[1:])],
            _wrap(o.source, widths[1]),
            _wrap(established, widths[2]),
            [_word(outcome)],
            [f"{outcome.seconds:.{2 if outcome.seconds < 9.995 else 1}f} s".rjust(_SECONDS)],
        ]
        for number in range(max(map(len, columns))):
            lines.append(_row([column[number] if number < len(column) else "" for column in columns], widths))
        if not outcome.as_expected or outcome.counterexample:
            found = ": ".join(part for part in (outcome.detail, outcome.counterexample) if part)
            lines += _wrap(found, width, initial_indent="    → ", subsequent_indent="      ")
    return [*lines, ""]


def _wrap(text: str, width: int, initial_indent: str = "", subsequent_indent: str = "") -> list[str]:
    """``text`` in lines of at most ``width``, broken at blanks; a word too long for a line, after ``_`` or anywhere."""
    lines, line = [], initial_indent
    room = width - len(subsequent_indent)
    for word in re.findall(r"\S+\s*", text):
        fits = len(word.rstrip()) <= room
        for piece in [word] if fits else re.findall(rf"[^\s_]{{0,{room - 1}}}_+|[^\s_]{{1,{room}}}\s*", word):
            if len(line) + len(piece.rstrip()) > width and line.strip():
                lines.append(line.rstrip())
                line = subsequent_indent
            line += piece
    return [*lines, line.rstrip()]


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    sizes = (*widths, _VERDICT, _SECONDS)
    return (" " * _GAP).join(cell.ljust(size) for cell, size in zip(cells, sizes, strict=True)).rstrip()
