"""Sums over indices of symbolic range, and a normal form in which equal ones look equal.

A size (``B``, ``D``, ``C``, …) is a positive integer symbol, so an identity proved here is proved for every size. Each
step of :func:`normal` replaces an expression by an equal one, so a difference that becomes 0 is 0; the converse need
not hold, and a true identity may be left unproved. The steps are:

1. products are multiplied out, and ``Σ_i (a + b) = Σ_i a + Σ_i b``;
2. ``Σ_i Σ_j a = Σ_ij a``: a sum that is a factor under another joins it;
3. ``Σ_i δ_ip a_i = a_p``, where ``i`` and ``p`` run over the same range;
4. ``Σ_ij a_i b_j = (Σ_i a_i)(Σ_j b_j)``, factors without an index of the sum move out, and ``Σ_(i < n) 1 = n``;
5. bound indices are renamed in one way, the order of summation included.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import sympy
from sympy import KroneckerDelta

Expr = Any  # a SymPy expression; SymPy has no type annotations


class Index(sympy.Dummy):  # type: ignore[misc]  # SymPy is untyped
    """An index that runs over ``0 … size − 1``; every instance is different from every other."""

    __slots__ = ("size",)
    size: Expr

    def __new__(cls, name: str, size: Expr) -> Index:
        """An index of that name, different from all others."""
        index: Index = sympy.Dummy.__new__(cls, name, integer=True, nonnegative=True)
        index.size = sympy.sympify(size)
        return index


class Label(sympy.Function):  # type: ignore[misc]  # SymPy is untyped
    """``Label(b, C)``: the label of example ``b``, any whole number from 0 to ``C − 1``."""

    is_integer = True
    is_nonnegative = True


def size_symbol(name: str) -> Expr:
    """A size of which nothing is known but that it is a positive whole number."""
    return sympy.Symbol(name, integer=True, positive=True)


def total(term: Expr, index: Index) -> Expr:
    """``Σ_index term``."""
    return sympy.Sum(term, (index, 0, index.size - 1))


def normal(expression: Expr) -> Expr:
    """An equal expression in the normal form described above."""
    expression = sympy.sympify(expression)
    if not expression.has(sympy.Sum, KroneckerDelta):
        return _multiplied_out(expression)
    if isinstance(expression, sympy.Sum):
        terms = sympy.Add.make_args(normal(expression.function))
        indices = [limits[0] for limits in expression.limits]
        return _multiplied_out(sympy.Add(*(_sum_of_product(term, indices) for term in terms)))
    if not expression.args or isinstance(expression, (sympy.Indexed, KroneckerDelta)):
        return expression
    return _multiplied_out(expression.func(*(normal(argument) for argument in expression.args)))


def simplifies_to_zero(form: Expr) -> bool:
    """True if SymPy brings a normal form to 0, its sums taken for arbitrary numbers."""
    sums = sorted(form.atoms(sympy.Sum), key=_height, reverse=True)
    return sympy.simplify(form.subs([(found, sympy.Dummy(real=True)) for found in sums])) == 0


def _multiplied_out(expression: Expr) -> Expr:
    return sympy.expand(expression, deep=False, power_base=False, power_exp=False, log=False, func=False)


def _sum_of_product(term: Expr, indices: list[Index]) -> Expr:
    """``Σ_indices term`` for one product ``term`` in normal form."""
    factors: list[Expr] = []
    renamed = {index: Index(index.name, index.size) for index in indices}
    bound, queue = list(renamed.values()), [factor.xreplace(renamed) for factor in sympy.Mul.make_args(term)]
    while queue:
        factor = queue.pop()
        if isinstance(factor, sympy.Sum) and not factor.free_symbols.isdisjoint(bound):
            inner = {limits[0]: Index(limits[0].name, limits[0].size) for limits in factor.limits}
            bound += inner.values()
            queue += sympy.Mul.make_args(factor.function.xreplace(inner))
        else:
            factors.append(factor)
    contracted = _contract(factors, bound)
    if contracted is not None:  # what a substitution touched is put into normal form again
        factors, bound = contracted
        product = normal(sympy.Mul(*factors))
        return _multiplied_out(sympy.Add(*(_sum_of_product(part, bound) for part in sympy.Add.make_args(product))))
    return _separated(factors, bound)


def _contract(factors: list[Expr], bound: list[Index]) -> tuple[list[Expr], list[Index]] | None:
    """The first ``Σ_i δ_ip a_i`` replaced by ``a_p``; ``None`` where there is none."""
    for factor in factors:
        if isinstance(factor, KroneckerDelta):
            for index, other in (factor.args, factor.args[::-1]):
                if index in bound and not other.has(index) and _range(other) == index.size:
                    rest = [f.xreplace({index: other}) for f in factors if f is not factor]
                    return rest, [i for i in bound if i != index]
    return None


def _range(place: Expr) -> Expr | None:
    """Number of values, from 0 up, that an index expression can take; ``None`` if that is not known."""
    if isinstance(place, Index):
        return place.size
    return place.args[1] if isinstance(place, Label) else None


def _separated(factors: list[Expr], bound: list[Index]) -> Expr:
    """``Σ_bound Π factors`` as a product of sums that share no index."""
    result = sympy.Integer(1)
    groups: list[tuple[set[Index], list[Expr]]] = [({index}, []) for index in bound]
    for factor in factors:
        indices = factor.free_symbols & set(bound)
        touched = [group for group in groups if not group[0].isdisjoint(indices)]
        if not touched:
            result *= factor
            continue
        groups = [group for group in groups if group not in touched]
        joined = [f for _, fs in touched for f in fs]
        groups.append((set().union(*(i for i, _ in touched)), [*joined, factor]))
    for indices, inside in groups:
        if inside:
            result *= _canonical(sympy.Mul(*inside), sorted(indices, key=bound.index))
        else:
            result *= sympy.Mul(*(index.size for index in indices))
    return result


def _canonical(product: Expr, bound: list[Index]) -> Expr:
    """``Σ_bound product`` with the bound indices named by their place, in the order that prints first."""
    height = 1 + _height(product)
    choices = []
    for order in itertools.permutations(bound):
        names = {index: _standard_index(height, place, index.size) for place, index in enumerate(order)}
        limits = [(names[index], 0, index.size - 1) for index in order]
        choices.append(sympy.Sum(product.xreplace(names), *limits))
    return choices[0] if len(choices) == 1 else min(choices, key=str)


@functools.cache
def _standard_index(height: int, place: int, size: Expr) -> Index:
    return Index(f"i{height}_{place}", size)


def _height(expression: Expr) -> int:
    """Depth to which sums are nested in an expression: the index of a sum over it must differ from those within."""
    return max((1 + _height(inner.function) for inner in expression.atoms(sympy.Sum)), default=0)
