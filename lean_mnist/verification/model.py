"""What an obligation is, and what checking it can find."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lean_mnist.errors import LeanMnistError

How = Literal["symbolic", "exact rational", "gradcheck", "property test", "enclosure"]
Verdict = Literal["holds", "refuted", "error"]

# What may be said of a statement that was established in each way. Only a symbolic identity, which covers every value
# of its variables, is called proved; everything else is called checked, and on what.
WORDING: dict[How, str] = {
    "symbolic": "proved",
    "exact rational": "checked exactly",
    "gradcheck": "checked by gradcheck",
    "property test": "checked",
    "enclosure": "enclosed",
}


class ObligationFailed(LeanMnistError):
    """An obligation does not hold of the code, or a false statement was not found false."""

    exit_status = 3


class Refuted(Exception):
    """Raised by a check that found the statement false: what was found, and where."""

    def __init__(self, detail: str, counterexample: str) -> None:
        super().__init__(f"{detail}: {counterexample}")
        self.detail, self.counterexample = detail, counterexample


class NotEstablished(Exception):
    """Raised by a check that found neither a proof nor a counterexample."""


@dataclass(frozen=True)
class Obligation:
    """A statement, and how it is established of this project's code.

    Attributes:
        id: ``group.name``, unique.
        statement: plain mathematics.
        source: the theorem or axiom of LEAN_mnist that it answers, or where else it comes from.
        how: the method; ``WORDING`` says what may be claimed of it.
        scope: the sizes and cases for which it is established, to be read after the method's word.
        assumptions: what the verdict rests on.
        run: checks the code and returns what there is to say about it; raises ``Refuted`` with a counterexample.
        expected: ``refuted`` for a false statement of the original, which must be found false.
    """

    id: str
    statement: str
    source: str
    how: How
    scope: str
    assumptions: tuple[str, ...]
    run: Callable[[], str]
    expected: Verdict = "holds"

    @property
    def group(self) -> str:
        return self.id.partition(".")[0]

    @property
    def established(self) -> str:
        """How and for what, in words that do not claim more than was done."""
        return self.scope if self.expected == "refuted" else f"{WORDING[self.how]} {self.scope}"

    def check(self) -> Outcome:
        """Run the check; an exception of the code under test is a verdict, too."""
        started = time.perf_counter()
        verdict: Verdict = "holds"
        counterexample = ""
        try:
            detail = self.run()
        except Refuted as found:
            verdict, detail, counterexample = "refuted", found.detail, found.counterexample
        except Exception as error:  # whatever broken code under test may raise
            verdict, detail = "error", f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Outcome(self, verdict, detail, counterexample, time.perf_counter() - started)


@dataclass(frozen=True)
class Outcome:
    """What checking one obligation found. ``counterexample`` is empty unless the verdict is ``refuted``."""

    obligation: Obligation
    verdict: Verdict
    detail: str
    counterexample: str
    seconds: float

    @property
    def as_expected(self) -> bool:
        return self.verdict == self.obligation.expected


@dataclass(frozen=True)
class Vacuous:
    """A statement of the original that says nothing, or less than its name, and the obligations that say it here."""

    source: str
    says: str
    established_by: tuple[str, ...]
