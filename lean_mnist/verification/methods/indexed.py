"""Arrays of symbolic shape, a kind of array on which the chain rule itself runs.

An :class:`IndexedArray` knows its shape, whose sizes may be symbols, and its entry at any indices, a SymPy expression.
``dense_backward`` of such arrays is a formula in ``B``, ``D`` and ``H``; that it equals SymPy's derivative of what
``dense_forward`` gave is then a statement about every batch size and every width at once.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import sympy
from sympy import KroneckerDelta

from lean_mnist.chainrule.activations import Activation
from lean_mnist.chainrule.arrays import Primitives
from lean_mnist.verification.methods.sums import Expr, Index, Label, total

Shape = tuple[Expr, ...]
_SCALARS = (int, Fraction, sympy.Expr)


def _elementwise(operation: Callable[[Expr, Expr], Expr]) -> Callable[..., Any]:
    """The operator method for ``operation`` of two arrays, which broadcast, or of an array and a scalar."""

    def method(self: IndexedArray, other: Any) -> Any:
        if isinstance(other, _SCALARS):
            other = constant(other)
        if not isinstance(other, IndexedArray):
            return NotImplemented
        own, others = len(self.shape), len(other.shape)
        rank = max(own, others)
        one, two = ((1,) * (rank - len(shape)) + shape for shape in (self.shape, other.shape))
        shape = tuple(b if a == 1 else a for a, b in zip(one, two, strict=True))
        assert all(1 in (a, b) or a == b for a, b in zip(one, two, strict=True)), f"{self.shape}, {other.shape}"
        return IndexedArray(shape, lambda *i: operation(self.at(*i[rank - own :]), other.at(*i[rank - others :])))

    return method


class IndexedArray:
    """An array given by ``entry(*indices)``; supports what the chain rule asks of an array, and no more."""

    __primitives__: _IndexedPrimitives

    def __init__(self, shape: Shape, entry: Callable[..., Expr], name: str = "") -> None:
        self.shape, self._entry, self.name = shape, entry, name

    def at(self, *indices: Expr) -> Expr:
        """The entry at ``indices``; along an axis of size 1 any index means 0, as in broadcasting."""
        assert len(indices) == len(self.shape)
        return self._entry(*(sympy.Integer(0) if n == 1 else i for n, i in zip(self.shape, indices, strict=True)))

    def indices(self, name: str = "p") -> tuple[Index, ...]:
        """Fresh indices, one an axis, that stand for any place of the array."""
        return tuple(Index(f"{name}{axis}", size) for axis, size in enumerate(self.shape))

    def map(self, function: Callable[[Expr], Expr]) -> IndexedArray:
        """The array of ``function`` of every entry."""
        return IndexedArray(self.shape, lambda *i: function(self.at(*i)))

    __add__ = __radd__ = _elementwise(operator.add)
    __mul__ = __rmul__ = _elementwise(operator.mul)
    __sub__, __rsub__ = _elementwise(operator.sub), _elementwise(lambda one, other: other - one)
    __truediv__, __rtruediv__ = _elementwise(operator.truediv), _elementwise(lambda one, other: other / one)

    def __neg__(self) -> IndexedArray:
        return self.map(operator.neg)

    def __matmul__(self, other: IndexedArray) -> IndexedArray:
        (rows, size), (size_again, columns) = self.shape, other.shape
        assert size == size_again, f"{self.shape} @ {other.shape}"

        def entry(i: Expr, j: Expr) -> Expr:
            k = Index("k", size)
            return total(self.at(i, k) * other.at(k, j), k)

        return IndexedArray((rows, columns), entry)

    @property
    def T(self) -> IndexedArray:  # noqa: N802  # as on every kind of array
        """The transposed matrix."""
        rows, columns = self.shape
        return IndexedArray((columns, rows), lambda i, j: self.at(j, i))

    def sum(self, axis: int) -> IndexedArray:
        """The sums along one axis."""

        def entry(*i: Expr) -> Expr:
            k = Index("k", self.shape[axis])
            return total(self.at(*i[:axis], k, *i[axis:]), k)

        return IndexedArray(self.shape[:axis] + self.shape[axis + 1 :], entry)

    def __getitem__(self, key: Any) -> IndexedArray:
        assert key == (slice(None), None)
        return column(self)


def variable(name: str, *shape: Expr) -> IndexedArray:
    """An array of real variables ``name[i, j, …]``; without a shape, one real variable."""
    base = sympy.IndexedBase(name, real=True)
    return IndexedArray(shape, lambda *i: base[i] if i else sympy.Symbol(name, real=True), name)


def constant(value: Expr, *shape: Expr) -> IndexedArray:
    """An array with ``value`` everywhere."""
    return IndexedArray(shape, lambda *_: sympy.sympify(value))


def identity(size: Expr) -> IndexedArray:
    """The unit matrix."""
    return IndexedArray((size, size), lambda i, j: KroneckerDelta(i, j))


def row(vector: IndexedArray) -> IndexedArray:
    """``vector (n,)`` as an array ``(1, n)``: a batch of one example."""
    return IndexedArray((1, *vector.shape), lambda _, i: vector.at(i))


def column(vector: IndexedArray) -> IndexedArray:
    """``vector (n,)`` as an array ``(n, 1)``: a batch of examples of one feature."""
    return IndexedArray((*vector.shape, 1), lambda i, _: vector.at(i))


def any_labels(size: Expr, classes: Expr) -> IndexedArray:
    """Labels ``(B,)`` of which nothing is known but that each is one of the classes."""
    return IndexedArray((size,), lambda b: Label(b, classes))


class Slope(sympy.Function):  # type: ignore[misc]  # SymPy is untyped
    """The derivative of :class:`AnyFunction`."""

    is_real = True


class AnyFunction(sympy.Function):  # type: ignore[misc]  # SymPy is untyped
    """A differentiable real function of which nothing else is known."""

    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        """The derivative, as SymPy asks for it."""
        return Slope(self.args[0])


# Any elementwise activation whose backward multiplies the upstream gradient by the derivative. That each activation of
# ``chainrule.activations`` is such a pair is an obligation of its own.
ANY_ACTIVATION = Activation("any", lambda z: (z.map(AnyFunction), z), lambda z, d_h: d_h * z.map(Slope))


def inner(one: IndexedArray, other: IndexedArray) -> Expr:
    """``Σ one · other`` over all places: the scalar whose gradient a vector–Jacobian product is."""
    places = one.indices("o")
    assert one.shape == other.shape
    return functools.reduce(total, (i for i in places if i.size != 1), one.at(*places) * other.at(*places))


def gradient(scalar: Expr, of: Any) -> IndexedArray:
    """SymPy's derivative of ``scalar`` by every entry of an array of variables."""
    return IndexedArray(of.shape, lambda *i: sympy.diff(scalar, of.at(*i)))


class _IndexedPrimitives(Primitives):
    """The primitives of ``chainrule.arrays`` for arrays of symbolic shape."""

    exp, log, tanh, erf = (
        staticmethod(operator.methodcaller("map", f)) for f in (sympy.exp, sympy.log, sympy.tanh, sympy.erf)
    )

    def where_nonpositive(self, condition: IndexedArray, then: Any, otherwise: IndexedArray) -> IndexedArray:
        def entry(*i: Expr) -> Expr:
            low = then.at(*i) if isinstance(then, IndexedArray) else sympy.sympify(then)
            return sympy.Piecewise((low, condition.at(*i) <= 0), (otherwise.at(*i), True))

        return IndexedArray(condition.shape, entry)

    # On tensors the largest logit. Here any numbers whatever, so that what is proved holds for every choice.
    def row_shift(self, x_BC: IndexedArray) -> IndexedArray:
        return variable("m", x_BC.shape[0], sympy.Integer(1))

    def spread(self, value: Any, like_B: IndexedArray) -> IndexedArray:
        return constant(value.at() if isinstance(value, IndexedArray) else value, *like_B.shape)

    def take_label(self, x_BC: IndexedArray, labels_B: IndexedArray) -> IndexedArray:
        return IndexedArray(labels_B.shape, lambda b: x_BC.at(b, labels_B.at(b)))

    def one_hot(self, labels_B: IndexedArray, like_BC: IndexedArray) -> IndexedArray:
        return IndexedArray(like_BC.shape, lambda b, c: KroneckerDelta(c, labels_B.at(b)))

    def constant(self, value: float, like: IndexedArray) -> Expr:
        return sympy.Rational(repr(value))

    def pi(self, like: IndexedArray) -> Expr:
        return sympy.pi


IndexedArray.__primitives__ = _IndexedPrimitives()
