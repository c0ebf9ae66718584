"""Proving that two arrays of symbolic shape are equal, and finding the place where they are not."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from typing import Any

import sympy
from sympy import KroneckerDelta

from lean_mnist.verification.methods.indexed import GENERIC, IndexedArray, gradient, inner
from lean_mnist.verification.methods.sums import Expr, Index, Label, normal, simplifies_to_zero
from lean_mnist.verification.model import NotEstablished, Refuted

# Small sizes that differ, so that a mix-up of two axes shows; sizes that come later in the alphabet reuse them.
_SIZES = (2, 3, 4)
_TRIES = 3


def prove_equal(what: str, found: IndexedArray | None, expected: IndexedArray | None) -> None:
    """Raise unless ``found`` is proved to equal ``expected`` at every place, for every size."""
    assert found is not None
    assert expected is not None
    if found.shape != expected.shape:
        raise Refuted(f"{what} has the wrong shape", f"{found.shape} instead of {expected.shape}")
    places = found.indices()
    prove_zero(what, found.at(*places), expected.at(*places))


def prove_vjp(output: IndexedArray, upstream: IndexedArray, found: Iterable[tuple[IndexedArray, Any]]) -> None:
    """Raise unless each gradient is proved to be SymPy's derivative of ``⟨output, upstream⟩``.

    ``found`` are pairs of a variable, which ``output`` depends on, and the gradient that the backward gives for it.
    """
    objective = inner(output, upstream)
    for of, gradient_of in found:
        prove_equal(f"the VJP in {of.name}", gradient_of, gradient(objective, of))


def prove_zero(what: str, found: Expr, expected: Expr = 0) -> None:
    """Raise ``Refuted`` with numbers, or ``NotEstablished``, unless ``found − expected`` is proved to be 0."""
    difference = normal(sympy.sympify(found) - expected)
    if difference == 0:
        return
    # Numbers before simplification, which can take long where it cannot succeed.
    for attempt in range(_TRIES):
        numbers = _differ_at(sympy.sympify(found), sympy.sympify(expected), random.Random(attempt))
        if numbers is not None:
            raise Refuted(f"{what} is not what it should be", numbers)
    if not simplifies_to_zero(difference):
        raise NotEstablished(f"{what}: the difference was not brought to 0, and no counterexample was found")


def prove_nonnegative(what: str, expression: Expr) -> None:
    """Raise ``NotEstablished`` unless ``expression`` is a sum of products of terms that cannot be negative."""
    if not _cannot_be_negative(expression):
        raise NotEstablished(f"{what}: {expression} was not shown to be at least 0")


def _cannot_be_negative(e: Expr) -> bool:
    if isinstance(e, sympy.Sum):
        return _cannot_be_negative(e.function)
    if isinstance(e, (KroneckerDelta, sympy.exp)):  # every variable here is real
        return True
    if isinstance(e, sympy.Add):
        one_minus = e - 1
        is_one_minus_delta = isinstance(-one_minus, KroneckerDelta)
        return is_one_minus_delta or all(_cannot_be_negative(part) for part in e.args)
    if isinstance(e, sympy.Mul):
        return all(_cannot_be_negative(part) for part in e.args)
    if isinstance(e, sympy.Pow):
        return bool(e.exp.is_integer and (e.exp.is_even or _cannot_be_negative(e.base)))
    return e.is_nonnegative is True


def _differ_at(found: Expr, expected: Expr, rng: random.Random) -> str | None:
    """Numbers at which two expressions differ, in words; ``None`` if they agree there to 20 digits."""
    instance = Instance(rng)
    one, other = instance.value(found), instance.value(expected)
    if one.is_finite is False or abs(one - other) <= sympy.Float("1e-20", 30) * (1 + abs(other)):
        return None
    sizes = ", ".join(f"{size} = {n}" for size, n in sorted(instance.sizes.items(), key=str))
    place = ", ".join(f"{index.name} = {n}" for index, n in instance.places.items())
    return f"{_short(one)} instead of {_short(other)} with {sizes or 'random numbers'}{f' at {place}' if place else ''}"


def _short(number: Any) -> str:
    return str(sympy.N(number, 9))


class Instance:
    """Concrete sizes and random numbers for the symbols of an expression, the same ones whenever a symbol recurs."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.sizes: dict[Expr, int] = {}
        self.places: dict[Index, int] = {}
        self._numbers: dict[Expr, Expr] = {}

    def value(self, expression: Expr) -> Expr:
        """The value of ``expression`` to 30 digits."""
        return sympy.N(self._explicit(sympy.sympify(expression), {}), 30)

    def _explicit(self, e: Expr, bound: dict[Expr, Expr]) -> Expr:
        if isinstance(e, sympy.Sum):
            indices = [limits[0] for limits in e.limits]
            ranges = [range(int(self._explicit(index.size, bound))) for index in indices]
            points = (map(sympy.Integer, point) for point in itertools.product(*ranges))
            terms = ({**bound, **dict(zip(indices, point, strict=True))} for point in points)
            return sympy.Add(*(self._explicit(e.function, term) for term in terms))
        if isinstance(e, Label):
            example, classes = (self._explicit(argument, bound) for argument in e.args)
            return sympy.Integer(int(self._number(Label(example, e.args[1])) * 1000) % int(classes))
        if isinstance(e, sympy.Indexed):
            return self._number(e.func(e.base, *(self._explicit(i, bound) for i in e.indices)))
        if isinstance(e, Index):
            if e in bound:
                return bound[e]
            if e not in self.places:
                self.places[e] = self._rng.randrange(int(self._explicit(e.size, bound)))
            return sympy.Integer(self.places[e])
        if isinstance(e, GENERIC):
            return e.example(self._explicit(e.args[0], bound))
        if isinstance(e, sympy.Symbol):
            if not e.is_integer:
                return self._number(e)
            return sympy.Integer(self.sizes.setdefault(e, _SIZES[len(self.sizes) % len(_SIZES)]))
        return e.func(*(self._explicit(argument, bound) for argument in e.args)) if e.args else e

    def _number(self, symbol: Expr) -> Expr:
        if symbol not in self._numbers:
            number = sympy.Rational(self._rng.randint(1, 40), 29)
            self._numbers[symbol] = number if symbol.is_positive or self._rng.random() < 0.5 else -number
        return self._numbers[symbol]
