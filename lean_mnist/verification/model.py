"""The form of an obligation, and the results of checking one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from lean_mnist.errors import LeanMnistError
from lean_mnist.verification import assumptions

Check = Callable[[], str]  # runs the code and says what there is to say; raises ``Refuted`` with a counterexample


class Method(Enum):
    """Method by which a statement is established: its name, and the words for it before a scope.

    Proved is what covers every value of its variables, by an identity that SymPy simplifies to 0. Derived is what an
    argument proves from the assumptions that stand beside it. Everything else is called checked, and on what.
    """

    SYMBOLIC = ("proved by SymPy", "proved by SymPy")
    EXACT = ("checked exactly on samples", "checked exactly")
    FLOATS = ("checked on floats", "checked in floating point")
    DERIVED = ("derived", "derived from its assumptions")

    def __init__(self, label: str, word: str) -> None:
        self.label, self.word = label, word


class Truth(Enum):
    """Result of checking a statement; ``ERROR`` is an exception of the code under test, or a fault of a theorem."""

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
class Theorem:
    """A theorem that Coq checked: the axioms beneath it, or what is wrong with it."""

    name: str
    axioms: tuple[str, ...] = ()
    fault: str = ""


@dataclass(frozen=True)
class ObligationResult:
    """Result of checking one obligation. ``counterexample`` is empty unless the verdict is ``REFUTED``.

    ``theorems`` are those of the obligation, once Coq has checked them.
    """

    obligation: Obligation
    verdict: Truth
    detail: str
    counterexample: str
    seconds: float
    theorems: tuple[Theorem, ...] = ()

    @property
    def as_expected(self) -> bool:
        """True if a true statement holds, or a false one is refuted."""
        return self.verdict is self.obligation.expected

    @property
    def machine_checked(self) -> bool:
        """True if Coq has checked a theorem that states this, or its mathematics, and found all of them in order."""
        return bool(self.theorems) and not any(theorem.fault for theorem in self.theorems)

    @property
    def _by_theorem(self) -> bool:
        """True if what an argument derives from assumptions is now a theorem."""
        return self.machine_checked and self.obligation.method is Method.DERIVED

    @property
    def established(self) -> str:
        """The method and the scope, in words that do not claim more than was done."""
        o = self.obligation
        words = "derived, and proved in Coq," if self._by_theorem else o.method.word
        return o.scope if o.expected is Truth.REFUTED else f"{words} {o.scope}"

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Assumptions beneath the verdict: with a theorem no longer what that proves."""
        own = self.obligation.assumptions
        return (assumptions.COQ, *(a for a in own if a not in assumptions.PROVED)) if self._by_theorem else own

    def with_theorems(self, theorems: tuple[Theorem, ...]) -> ObligationResult:
        """The same once Coq has checked its ``theorems``."""
        faults = [f"{theorem.name}: {theorem.fault}" for theorem in theorems if theorem.fault]
        if faults and self.as_expected:
            return replace(self, theorems=theorems, verdict=Truth.ERROR, detail="; ".join(faults))
        return replace(self, theorems=theorems)


@dataclass(frozen=True)
class Vacuous:
    """A statement of the original that says nothing, or less than its name, and the obligations that say it here."""

    source: str
    says: str
    established_by: tuple[str, ...]


_USUALLY = {
    Method.SYMBOLIC: assumptions.SYMBOLIC,
    Method.EXACT: (assumptions.FRACTIONS, assumptions.CASES),
    Method.FLOATS: (assumptions.TORCH, assumptions.CASES),
}


class Statements(list[Obligation]):
    """Obligations of one group, in the order of the table; those that say no ``method`` have the group's."""

    def __init__(self, group: str, title: str, *rests_on: str, method: Method = Method.SYMBOLIC) -> None:
        super().__init__()
        self.group, self.title, self._rests_on, self._method = group, title, rests_on, method

    def add(
        self,
        name: str,
        statement: str,
        source: str,
        scope: str,
        run: Check,
        method: Method | None = None,
        rests_on: tuple[str, ...] = (),
        expected: Truth = Truth.HOLDS,
    ) -> None:
        """Add one; unless ``rests_on`` is given, it rests on the assumptions of the group or else of the method."""
        method = method or self._method
        rests_on = rests_on or self._rests_on or _USUALLY[method]
        self.append(Obligation(f"{self.group}.{name}", statement, source, scope, run, method, rests_on, expected))

    def __call__(self, source: str, scope: str, method: Method | None = None, **more: Any) -> Callable[[Check], Check]:
        """Decorator that adds a check under its name, with the first line of its docstring as the statement."""

        def add(run: Check) -> Check:
            statement = (run.__doc__ or "").partition("\n")[0].rstrip(".")
            self.add(run.__name__.replace("_", "-"), statement, source, scope, run, method, **more)
            return run

        return add
