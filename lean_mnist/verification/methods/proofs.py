"""Proving that two arrays of symbolic shape are equal, and finding the place where they are not."""

import random
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import mpmath
import sympy
from sympy import KroneckerDelta

from lean_mnist.verification.methods.indexed import IndexedArray, gradient, inner
from lean_mnist.verification.methods.sums import Expr, Index, normal, simplifies_to_zero
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
    found, expected = sympy.sympify(found), sympy.sympify(expected)
    difference = normal(found - expected)
    if difference == 0:
        return
    # Numbers before simplification, which can take long where it cannot succeed.
    for attempt in range(_TRIES):
        numbers = _differ_at(found, expected, random.Random(attempt))
        if numbers is not None:
            raise Refuted(f"{what} is not what it should be", numbers)
    if not simplifies_to_zero(difference):
        raise NotEstablished(f"{what}: the difference was not brought to 0, and no counterexample was found")


def prove_nonnegative(what: str, expression: Expr) -> None:
    """Raise ``NotEstablished`` unless ``expression`` is a sum of products of terms that cannot be negative."""
    if not _cannot_be_negative(expression):
        raise NotEstablished(f"{what}: {expression} was not shown to be at least 0")


def prove_no_negative(what: str, expression: Expr) -> None:
    """Raise ``Refuted``, or ``NotEstablished``, unless a quotient of polynomials in nonnegative symbols is at least 0.

    It is where no coefficient is negative, once it is cancelled.
    """
    quotient = sympy.cancel(expression)
    if all(c >= 0 for part in sympy.fraction(quotient) for c in sympy.expand(part).as_coefficients_dict().values()):
        return
    symbols, rng = sorted(quotient.free_symbols, key=str), random.Random(0)
    for _ in range(200):
        numbers = {symbol: sympy.Rational(rng.randrange(40), 8) for symbol in symbols}
        value = quotient.subs(numbers)
        if value.is_number and value.is_negative:
            at = ", ".join(f"{symbol} = {number}" for symbol, number in numbers.items())
            raise Refuted(f"{what} is negative", f"{value} at {at}")
    raise NotEstablished(f"{what}: {quotient} was not shown to be at least 0")


def _cannot_be_negative(e: Expr) -> bool:
    if isinstance(e, sympy.Sum):
        return _cannot_be_negative(e.function)
    if isinstance(e, (KroneckerDelta, sympy.exp)):  # every variable here is real
        return True
    if isinstance(e, (sympy.Add, sympy.Mul)):
        return isinstance(1 - e, KroneckerDelta) or all(map(_cannot_be_negative, e.args))
    if isinstance(e, sympy.Pow):
        return bool(e.exp.is_integer and (e.exp.is_even or _cannot_be_negative(e.base)))
    return e.is_nonnegative is True


def _differ_at(found: Expr, expected: Expr, rng: random.Random) -> str | None:
    """Numbers at which two expressions differ, in words; ``None`` if they agree there to 20 digits."""
    instance = Instance(rng)
    one, other = instance.value(found), instance.value(expected)
    if not mpmath.isfinite(one) or abs(one - other) <= 1e-20 * (1 + abs(other)):
        return None
    chosen = [s for s in instance.numbers if s.is_integer]
    sizes, place = (
        ", ".join(sorted(f"{s.name} = {instance.numbers[s]}" for s in chosen if isinstance(s, Index) is indices))
        for indices in (False, True)
    )
    values = f"{mpmath.nstr(one, 9)} instead of {mpmath.nstr(other, 9)}"
    return f"{values} with {sizes or 'random numbers'}{f' at {place}' if place else ''}"


class Instance:
    """Concrete sizes and random numbers for the symbols of an expression, the same ones whenever a symbol recurs."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.numbers: dict[Expr, Any] = {}
        self._entries: defaultdict[Expr, Any] = defaultdict(lambda: defaultdict(self._number))
        self._labels: defaultdict[int, int] = defaultdict(lambda: rng.randrange(1000))

    def value(self, expression: Expr) -> Any:
        """The value of ``expression`` to 30 digits."""
        bases = sorted(expression.atoms(sympy.IndexedBase), key=str)
        labels = {base.label for base in bases}
        symbols = sorted((s for s in expression.free_symbols - labels if not isinstance(s, sympy.Indexed)), key=str)
        functions = {
            "Label": lambda example, classes: self._labels[example] % classes,
            "AnyFunction": mpmath.tanh,
            "Slope": lambda z: 1 - mpmath.tanh(z) ** 2,
        }
        with mpmath.workdps(30):
            evaluate = sympy.lambdify([*bases, *symbols], expression, [functions, "mpmath"])
            return mpmath.mpmathify(evaluate(*(self._entries[base] for base in bases), *map(self._symbol, symbols)))

    def _symbol(self, symbol: Expr) -> Any:
        if symbol not in self.numbers:
            if isinstance(symbol, Index):
                self.numbers[symbol] = self._rng.randrange(int(self.value(symbol.size)))
            elif symbol.is_integer:
                sizes = [s for s in self.numbers if s.is_integer and not isinstance(s, Index)]
                self.numbers[symbol] = _SIZES[len(sizes) % len(_SIZES)]
            else:
                number = self._number()
                self.numbers[symbol] = abs(number) if symbol.is_positive else number
        return self.numbers[symbol]

    def _number(self) -> Any:
        return mpmath.mpf(self._rng.choice([-1, 1]) * self._rng.randint(1, 40)) / 29
