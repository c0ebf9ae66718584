"""Put a case to ``check_function``, and say whether that is what is known of it."""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

import torch

from benchmarks.wild.case import Case, Expect
from lean_mnist.crosscheck import check_function
from lean_mnist.crosscheck.report import FunctionReport, Severity, Verdict
from lean_mnist.errors import ArgumentError


class Observed(Enum):
    """Verdict of ``check_function`` on a case."""

    PASSED = "passed"
    ERROR = "ERROR"
    WARNING = "passed with warnings"
    INCONCLUSIVE = "INCONCLUSIVE"
    REFUSED = "refused"  # the question, by ArgumentError
    CRASH = "crash"  # any other exception, a signal, or no answer in time
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Outcome:
    """``said`` are the findings that decided, in brief; ``rules`` are those that failed as errors and as warnings."""

    package: str
    name: str
    observed: Observed
    said: str = ""
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: int = 0
    seconds: float = 0.0

    def to_json(self) -> str:
        """One line."""
        return json.dumps({**asdict(self), "observed": self.observed.name})

    @classmethod
    def from_json(cls, line: str) -> Outcome:
        """The inverse of ``to_json``."""
        values: dict[str, Any] = json.loads(line)
        values["observed"] = Observed[values["observed"]]
        for rules in ("errors", "warnings"):
            values[rules] = tuple(values[rules])
        return cls(**values)


def judge(case: Case, seed: int = 0) -> Outcome:
    """Build and check ``case``; whatever it raises is an outcome."""
    started = time.perf_counter()
    outcome = _judged(case, seed)
    return replace(outcome, seconds=round(time.perf_counter() - started, 2))


def _judged(case: Case, seed: int) -> Outcome:
    def not_checked(observed: Observed, why: str) -> Outcome:
        return Outcome(case.package, case.name, observed, _brief(why))

    if case.needs_gpu and not torch.cuda.is_available():
        return not_checked(Observed.NOT_RUN, "needs a GPU")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            call = case.build()
            report = check_function(call.function, call.reference, call.inputs, seed=seed, **call.options)
    except ModuleNotFoundError as missing:
        return not_checked(Observed.NOT_RUN, f"{missing.name} is not installed")
    except ArgumentError as refusal:
        return not_checked(Observed.REFUSED, str(refusal))
    except Exception as error:
        return not_checked(Observed.CRASH, f"{type(error).__name__}: {error}")
    return _of_report(case, report)


def _of_report(case: Case, report: FunctionReport) -> Outcome:
    """The report's verdict, and the rules that decided it with what they are about."""
    failed = [finding for finding in report.findings if finding.verdict is Verdict.FAILED]
    errors = [f for f in failed if (f.severity or Severity.ERROR) is Severity.ERROR]
    warned = [f for f in failed if f.severity is Severity.WARNING]
    if errors:
        observed = Observed.ERROR
    elif report.verdict is Verdict.INCONCLUSIVE:
        observed = Observed.INCONCLUSIVE
    else:
        observed = Observed.WARNING if warned else Observed.PASSED
    decided = errors or warned
    headline = "" if report.ok else str(report).partition(" (seed")[0]
    return Outcome(
        case.package,
        case.name,
        observed,
        _brief(str(decided[0])) if decided else headline,
        tuple(dict.fromkeys(f.rule for f in errors)),
        tuple(dict.fromkeys(f.rule for f in warned)),
        sum(f.severity is Severity.NOTE for f in report.findings),
    )


def _brief(text: str, limit: int = 240) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def is_expected(case: Case, outcome: Outcome) -> bool:
    """True if ``outcome`` is what is known of ``case``; what was not run is."""
    observed = outcome.observed
    if observed is Observed.NOT_RUN:
        return True
    if case.expect is Expect.SECOND:
        return observed is Observed.WARNING and "double backward" in outcome.warnings
    if case.expect is Expect.CONTRACT:
        return observed is Observed.WARNING and set(outcome.warnings) != {"double backward"}
    return (
        observed
        in {
            Expect.RIGHT: (Observed.PASSED,),
            Expect.INTENDED: (Observed.PASSED,),
            Expect.BUG: (Observed.ERROR,),
            Expect.LIMIT: (Observed.REFUSED, Observed.INCONCLUSIVE),
        }[case.expect]
    )
