"""The form of an obligation, and the results of checking one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lean_mnist.errors import LeanMnistError
from lean_mnist.verification import assumptions

Check = Callable[[], str]  # runs the code and says what there is to say; raises ``Refuted`` with a counterexample


class Method(Enum):
    """Method by which a statement is established, and the word for it, of one statement and of several.

    Only a symbolic identity, which covers every value of its variables, is called proved; everything else is called
    checked, and on what.
    """

    SYMBOLIC = ("symbolic", "proved", "proved")
    EXACT = ("exact rational", "checked exactly", "checked exactly")
    GRADCHECK = ("gradcheck", "checked by gradcheck", "checked by gradcheck")
    CASES = ("property test", "checked", "checked on cases")

    def __init__(self, label: str, word: str, plural: str) -> None:
        self.label, self.word, self.plural = label, word, plural


class Truth(Enum):
    """Result of checking a statement; ``ERROR`` is an exception of the code under test."""

    HOLDS = "holds"
    REFUTED = "refuted"
    ERROR = "error"


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
    """A statement, and how it is established of this project's code."""

    id: str  # ``group.name``, unique
    statement: str  # plain mathematics
    source: str  # the theorem or axiom of LEAN_mnist that it answers, or where else it comes from
    scope: str  # the sizes and cases for which it is established, to be read after the method's word
    run: Check  # checks the code
    method: Method = Method.SYMBOLIC
    assumptions: tuple[str, ...] = assumptions.SYMBOLIC  # what the verdict rests on
    expected: Truth = Truth.HOLDS  # ``REFUTED`` for a false statement of the original, which must be found false

    @property
    def group(self) -> str:
        """The part of the id before its first dot."""
        return self.id.partition(".")[0]

    @property
    def established(self) -> str:
        """The method and the scope, in words that do not claim more than was done."""
        return self.scope if self.expected is Truth.REFUTED else f"{self.method.word} {self.scope}"

    def check(self) -> ObligationResult:
        """Run the check; an exception of the code under test is a verdict, too."""
        started = time.perf_counter()
        verdict, counterexample = Truth.HOLDS, ""
        try:
            detail = self.run()
        except Refuted as found:
            verdict, detail, counterexample = Truth.REFUTED, found.detail, found.counterexample
        except Exception as error:  # whatever broken code under test may raise
            verdict, detail = Truth.ERROR, f"{type(error).__name__}: {' '.join(str(error).split())}"
        return ObligationResult(self, verdict, detail, counterexample, time.perf_counter() - started)


@dataclass(frozen=True)
class ObligationResult:
    """Result of checking one obligation. ``counterexample`` is empty unless the verdict is ``REFUTED``."""

    obligation: Obligation
    verdict: Truth
    detail: str
    counterexample: str
    seconds: float

    @property
    def as_expected(self) -> bool:
        """True if a true statement holds, or a false one is refuted."""
        return self.verdict is self.obligation.expected


@dataclass(frozen=True)
class Vacuous:
    """A statement of the original that says nothing, or less than its name, and the obligations that say it here."""

    source: str
    says: str
    established_by: tuple[str, ...]


_USUALLY = {
    Method.SYMBOLIC: assumptions.SYMBOLIC,
    Method.EXACT: (assumptions.FRACTIONS, assumptions.CASES),
    Method.GRADCHECK: (assumptions.GRADCHECK, assumptions.TORCH),
    Method.CASES: (assumptions.TORCH, assumptions.CASES),
}


class Statements(list[Obligation]):
    """Obligations of one group, in the order of the table."""

    def __init__(self, group: str, title: str, *rests_on: str) -> None:
        super().__init__()
        self.group, self.title, self._rests_on = group, title, rests_on

    def add(
        self,
        name: str,
        statement: str,
        source: str,
        scope: str,
        run: Check,
        method: Method = Method.SYMBOLIC,
        rests_on: tuple[str, ...] = (),
        expected: Truth = Truth.HOLDS,
    ) -> None:
        """Add one; unless ``rests_on`` is given, it rests on the assumptions of the group or else of the method."""
        rests_on = rests_on or self._rests_on or _USUALLY[method]
        self.append(Obligation(f"{self.group}.{name}", statement, source, scope, run, method, rests_on, expected))

    def __call__(
        self, source: str, scope: str, method: Method = Method.SYMBOLIC, **more: Any
    ) -> Callable[[Check], Check]:
        """Decorator that adds a check under its name, with the first line of its docstring as the statement."""

        def add(run: Check) -> Check:
            statement = (run.__doc__ or "").partition("\n")[0].rstrip(".")
            self.add(run.__name__.replace("_", "-"), statement, source, scope, run, method, **more)
            return run

        return add
