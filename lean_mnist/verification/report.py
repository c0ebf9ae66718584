"""Choice and check of obligations, and the report of the results: a table for people, a document for programs."""

import fnmatch
import itertools
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from textwrap import wrap
from typing import Any

from lean_mnist.errors import ConfigError, nearest
from lean_mnist.invocation import typed
from lean_mnist.verification.coq import CoqReport, check_theorems
from lean_mnist.verification.model import Method, Obligation, ObligationFailed, ObligationResult, Truth, Vacuous

Progress = Callable[[int, int, str], None]  # how many are done, of how many, which is next ("" at the end)
_SHARES = (0.39, 0.27, 0.34)  # of what verdict and time leave: statement, source, how it is established
_VERDICT, _SECONDS, _GAP, _NARROWEST = 9, 6, 2, 88


def obligations() -> list[Obligation]:
    """All obligations, in the order of the table; raises ``ConfigError`` where SymPy is missing."""
    return [obligation for group in _statements().GROUPS for obligation in group]


def select(everything: Sequence[Obligation], pattern: str) -> list[Obligation]:
    """Those whose group or id is ``pattern``, or whose id fits it (``*`` and ``?``); ``ConfigError`` if none does."""
    chosen = [o for o in everything if pattern == o.group or fnmatch.fnmatchcase(o.id, pattern)]
    if not chosen:
        groups = list(dict.fromkeys(o.group for o in everything))
        raise ConfigError(
            f"--only: expected an id, a pattern such as 'loss.*', or one of {', '.join(groups)}, "
            f"found {pattern!r}{nearest(pattern, [*groups, *(o.id for o in everything)])}"
        )
    return chosen


def _statements() -> Any:
    """The statements, imported when they are needed, since SymPy takes a while."""
    try:
        import sympy  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"lean_mnist.verify proves with SymPy, which is missing: {typed('python -m pip', 'install', 'sympy')}"
        ) from None
    from lean_mnist.verification import statements

    return statements


@dataclass(frozen=True)
class ObligationReport:
    """Results of checking some or all obligations; ``coq`` is what Coq said of their theorems, if it was asked."""

    results: tuple[ObligationResult, ...]
    vacuous: tuple[Vacuous, ...]
    seconds: float
    coq: CoqReport | None = None

    @property
    def failed(self) -> list[ObligationResult]:
        """True statements that do not hold, and false ones that were not refuted."""
        return [result for result in self.results if not result.as_expected]

    @property
    def ok(self) -> bool:
        """True if something was checked, everything that was is as expected, and nothing is wrong with the proofs."""
        return bool(self.results) and not self._faults

    @property
    def _faults(self) -> list[str]:
        """Faults, a part of a line each."""
        faults = [] if self.coq is None or not self.coq.fault else [f"Coq: {self.coq.fault}"]
        if self.failed:
            names = ", ".join(f"{r.obligation.id} ({_word(r)})" for r in self.failed)
            faults += [f"{len(self.failed)} of {len(self.results)} obligations failed: {names}"]
        return faults

    @property
    def assumptions(self) -> dict[str, int]:
        """Each assumption, with the number of obligations that rest on it, in the order in which they are met."""
        return dict(Counter(a for result in self.results for a in result.assumptions))

    def raise_if_failed(self) -> None:
        """Raise ``ObligationFailed``, one line, unless ``ok``."""
        if not self.ok:
            raise ObligationFailed("; ".join(self._faults) or "nothing was checked")

    def to_json(self) -> str:
        """One JSON document: every obligation with its verdict, the vacuous statements, the assumptions."""
        verdicts = {result.obligation.id: result.verdict.value for result in self.results}
        document: dict[str, Any] = {
            "ok": self.ok,
            "failed": [result.obligation.id for result in self.failed],
            "obligations": [_plain(result) for result in self.results],
            "vacuous": [
                {
                    "source": v.source,
                    "says": v.says,
                    "established_by": [{"id": i, "verdict": verdicts.get(i, "not run")} for i in v.established_by],
                }
                for v in self.vacuous
            ],
            "assumptions": [
                {"assumption": text, "how": "assumed", "obligations": n} for text, n in self.assumptions.items()
            ],
            "coq": None if self.coq is None else self.coq.as_plain(),
            "seconds": self.seconds,
            "versions": {
                "python": platform.python_version(),
                **{name: metadata.version(name) for name in ("torch", "sympy", "numpy")},
            },
        }
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)

    def text(self, width: int = 120) -> str:
        """The table, at most ``width`` columns wide (but never narrower than 88)."""
        width, lines = max(width, _NARROWEST), list[str]()
        for group in _statements().GROUPS:
            lines += _table(group.title, [r for r in self.results if r.obligation.group == group.group], width)
        if self.vacuous:
            verdicts = {result.obligation.id: _word(result) for result in self.results}
            lines += ["Statements of the original that say less than their names", ""]
            for v in self.vacuous:
                here = ", ".join(f"{i} ({verdicts.get(i, 'not run')})" for i in v.established_by)
                lines += wrap(f"{v.source}: {v.says}", width, initial_indent="  ", subsequent_indent="    ")
                lines += wrap(f"here: {here}", width, initial_indent="    ", subsequent_indent="    ")
            lines.append("")
        lines += ["Assumptions, and how many obligations rest on each", ""]
        for assumption, count in self.assumptions.items():
            lines += wrap(assumption, width, initial_indent=f"{count:>4}  ", subsequent_indent=" " * 6)
        return "\n".join([*lines, "", *wrap(self._of_coq(), width), *wrap(self._summary(), width)])

    def __str__(self) -> str:
        return self.text()

    def _of_coq(self) -> str:
        """Sentence on the obligations that Coq has checked, and those that it has not."""
        if self.coq is None:
            return "Nothing was machine-checked: --coq compiles proofs/ and checks the theorems that state obligations."
        if self.coq.fault:
            return f"Nothing was machine-checked: {self.coq.fault}."
        checked = [r for r in self.results if r.machine_checked]
        others = ", ".join(r.obligation.id for r in self.results if not r.machine_checked)
        tried = sum(_of_code(r) for r in checked)
        return (
            f"Machine-checked by Coq {self.coq.version}: {len(checked)} of {len(self.results)} obligations"
            f"{f', of {tried} of them the mathematics alone' if tried else ''}, by "
            f"{len({t.name for r in checked for t in r.theorems})} theorems that rest on "
            f"{', '.join(self.coq.axioms) or 'no axiom'}. {f'Not: {others}.' if others else ''}"
        )

    def _summary(self) -> str:
        ours = [r for r in self.results if r.obligation.expected is Truth.HOLDS]
        good = Counter(r.obligation.method for r in ours if r.as_expected)
        refuted = len([r for r in self.results if r.as_expected]) - good.total()
        parts = [f"{good.total()} of {len(ours)} obligations hold"] if ours else []
        if good:
            parts[-1] += f" ({', '.join(f'{good[method]} {method.label}' for method in Method if good[method])})"
        if refuted:
            parts.append(f"{refuted} false statements of the original refuted")
        if not self.ok:
            parts.append(f"FAILED: {'; '.join(self._faults) or 'nothing was checked'}")
        return f"{'; '.join(parts)}; {self.seconds:.1f} s"


def verify(only: str | None = None, progress: Progress = lambda *_: None, *, coq: bool = False) -> ObligationReport:
    """Check all obligations, or those that ``only`` picks (see ``select``); with ``coq`` their theorems, too.

    Raises ``ConfigError`` if ``only`` picks none, or if Coq is asked for and not there.
    """
    started, results = time.perf_counter(), list[ObligationResult]()
    everything = obligations()
    chosen = everything if only is None else select(everything, only)
    ran = {obligation.id for obligation in chosen}
    by_coq = check_theorems({o.id for o in everything}, ran, progress) if coq else None
    for done, obligation in enumerate(chosen):
        progress(done, len(chosen), obligation.id)
        result = obligation.check()
        results.append(result.with_theorems(by_coq.theorems.get(obligation.id, ())) if by_coq else result)
    progress(len(chosen), len(chosen), "")
    vacuous = tuple(v for v in _statements().VACUOUS if not ran.isdisjoint(v.established_by))
    return ObligationReport(tuple(results), vacuous, time.perf_counter() - started, by_coq)


def _word(result: ObligationResult) -> str:
    """The verdict, in capitals where it failed."""
    return result.verdict.value if result.as_expected else result.verdict.value.upper()


def _of_code(result: ObligationResult) -> bool:
    """True if what is tried on cases is the code, of which a theorem says nothing."""
    o = result.obligation
    return o.expected is Truth.HOLDS and o.method in (Method.EXACT, Method.FLOATS)


def _plain(result: ObligationResult) -> dict[str, Any]:
    o = result.obligation
    return {
        **{key: getattr(o, key) for key in ("id", "group", "statement", "source")},
        "how": o.method.label,
        "scope": o.scope,
        "established": result.established,
        "assumptions": list(result.assumptions),
        "expected": o.expected.value,
        "verdict": result.verdict.value,
        "as_expected": result.as_expected,
        "detail": result.detail,
        "counterexample": result.counterexample or None,
        "machine_checked": result.machine_checked,
        "theorems": [{"name": t.name, "axioms": list(t.axioms), "fault": t.fault or None} for t in result.theorems],
        "seconds": result.seconds,
    }


def _table(title: str, results: Sequence[ObligationResult], width: int) -> list[str]:
    if not results:
        return []
    widths = [*(int(share * (width - _VERDICT - _SECONDS - 4 * _GAP)) for share in _SHARES), _VERDICT, _SECONDS]
    cells = partial(wrap, break_on_hyphens=False)
    rows = [[[head] for head in ("statement", "source", "how, and for what", "verdict", "time")]]
    rows.append([["─" * size] for size in widths])
    for result in results:
        o = result.obligation
        # A method that was to be used establishes nothing where it failed.
        established = result.established if result.as_expected else "not established"
        seconds = f"{result.seconds:.{2 if result.seconds < 9.995 else 1}f} s".rjust(_SECONDS)
        said = cells(o.statement, widths[0], initial_indent="  ", subsequent_indent="  ")
        statement = [*cells(o.id, widths[0]), *said]
        rows.append([statement, cells(o.source, widths[1]), cells(established, widths[2]), [_word(result)], [seconds]])
        if result.counterexample or not result.as_expected:
            found = ": ".join(part for part in (result.detail, result.counterexample) if part)
            rows.append([wrap(found, width, initial_indent="    → ", subsequent_indent="      ")])
        if result.machine_checked:
            names = ", ".join(theorem.name for theorem in result.theorems)
            what = "Coq, of the mathematics alone" if _of_code(result) else "Coq"
            rows.append([wrap(f"{what}: {names}", width, initial_indent="    ✓ ", subsequent_indent="      ")])
    lines = [title, ""]
    for row in rows:
        for line in itertools.zip_longest(*row, fillvalue=""):
            padded = (cell.ljust(size) for cell, size in zip(line, widths, strict=False))
            lines.append((" " * _GAP).join(padded).rstrip())
    return [*lines, ""]
