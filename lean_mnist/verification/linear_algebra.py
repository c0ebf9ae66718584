"""The fifteen rules of linear algebra, for every size.

``chainrule`` has one linear operation, the dense layer ``x Wᵀ + b``, and every rule is a special case of it: the table
says which. Its forward is a polynomial in the entries of ``x``, ``W`` and ``b``, so it is differentiable in each; what
is proved is its value, and that the gradients it gives are SymPy's derivatives of that value. Matrices are added and
scaled as the vectors of their entries, row by row.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy

from lean_mnist.chainrule import dense
from lean_mnist.verification.gradients import (
    SYMBOLIC,
    B,
    C,
    M,
    N,
    backward,
    matvec_by_matrix,
    matvec_by_vector,
    smul,
    vadd,
)
from lean_mnist.verification.indexed import (
    IndexedArray,
    column,
    diagonal,
    gradient,
    identity,
    inner,
    row,
    variable,
)
from lean_mnist.verification.model import Obligation
from lean_mnist.verification.proofs import prove_equal

Pairs = list[tuple[str, IndexedArray, IndexedArray]]  # name, the VJP that dense_backward gives, the variable
CORE = "LinearAlgebra"
MN = M * N  # a matrix of m rows and n columns, row by row


def _check(z: IndexedArray, value: IndexedArray, g: IndexedArray, pairs: Pairs) -> None:
    """``z`` is ``value``, and each gradient is the derivative of ``⟨z, g⟩`` by its variable."""
    prove_equal("the value", z, value)
    objective = inner(z, g)
    for name, found, of in pairs:
        prove_equal(f"the VJP in {name}", found, gradient(objective, of))


def _first_row(matrix: IndexedArray) -> IndexedArray:
    return IndexedArray(matrix.shape[1:], lambda i: matrix.at(sympy.Integer(0), i))


def _first_column(matrix: IndexedArray) -> IndexedArray:
    return IndexedArray(matrix.shape[:1], lambda i: matrix.at(i, sympy.Integer(0)))


def _diagonal_of(matrix: IndexedArray) -> IndexedArray:
    """What a gradient of ``diagonal(v)`` means for ``v``."""
    return IndexedArray(matrix.shape[:1], lambda i: matrix.at(i, i))


def _sum(size: sympy.Expr) -> str:
    """``v + b``: weight I, bias b."""
    v, b, g = variable("v", size), variable("b", size), variable("g", size)
    z, tape = dense.dense_forward(row(v), identity(size), b)
    found = backward(tape, row(g))
    _check(z, row(v + b), row(g), [("v", _first_row(found.x), v), ("b", found.bias, b)])
    return "dense with weight I and bias b"


def _difference(size: sympy.Expr) -> str:
    """``b − v``: weight −I, bias b."""
    v, b, g = variable("v", size), variable("b", size), variable("g", size)
    z, tape = dense.dense_forward(row(v), -identity(size), b)
    found = backward(tape, row(g))
    _check(z, row(b - v), row(g), [("v", _first_row(found.x), v), ("b", found.bias, b)])
    return "dense with weight −I and bias b"


def _multiple(size: sympy.Expr) -> str:
    """``c v``: weight c I; the gradient of c is the trace of the weight's."""
    c, v, g = variable("c"), variable("v", size), variable("g", size)
    z, tape = dense.dense_forward(row(v), identity(size) * c.at())
    found = backward(tape, row(g))
    d_c = _diagonal_of(found.weight).sum(0)
    _check(z, row(v * c.at()), row(g), [("v", _first_row(found.x), v), ("c", d_c, c)])
    return "dense with weight c I"


def _transpose() -> str:
    a, g = variable("A", M, N), variable("g", N, M)
    z, tape = dense.dense_forward(identity(N), a)
    _check(z, a.T, g, [("A", backward(tape, g).weight, a)])
    return "dense of I with weight A"


def _product() -> str:
    u, v, g = variable("u", N), variable("v", N), variable("g", N)
    z, tape = dense.dense_forward(row(u), diagonal(v))
    found = backward(tape, row(g))
    _check(z, row(u * v), row(g), [("u", _first_row(found.x), u), ("v", _diagonal_of(found.weight), v)])
    return "dense of u with weight diag(v)"


def _dot() -> str:
    u, v, g = variable("u", N), variable("v", N), variable("g", sympy.Integer(1), sympy.Integer(1))
    z, tape = dense.dense_forward(row(u), row(v))
    found = backward(tape, g)
    value = IndexedArray(g.shape, lambda *_: inner(u, v))
    _check(z, value, g, [("u", _first_row(found.x), u), ("v", _first_row(found.weight), v)])
    return "dense of u with the one unit v"


def _norm_squared() -> str:
    v, g = variable("v", N), variable("g", sympy.Integer(1), sympy.Integer(1))
    z, tape = dense.dense_forward(row(v), row(v))
    found = backward(tape, g)
    value = IndexedArray(g.shape, lambda *_: inner(v, v))
    _check(z, value, g, [("v", _first_row(found.x + found.weight), v)])
    return "dense of v with the one unit v; v is used twice, so its two gradients add up"


def _outer() -> str:
    u, v, g = variable("u", M), variable("v", N), variable("g", M, N)
    z, tape = dense.dense_forward(column(u), column(v))
    found = backward(tape, g)
    value = IndexedArray((M, N), lambda i, j: u.at(i) * v.at(j))
    _check(z, value, g, [("u", _first_column(found.x), u), ("v", _first_column(found.weight), v)])
    return "dense of m examples of one feature with n units"


def _matmul() -> str:
    a, b, g = variable("A", M, N), variable("B", N, C), variable("g", M, C)
    z, tape = dense.dense_forward(a, b.T)
    found = backward(tape, g)
    _check(z, a @ b, g, [("A", found.x, a), ("B", found.weight.T, b)])
    return "dense of A with weight Bᵀ"


def _batch_matvec() -> str:
    a, x, g = variable("A", M, N), variable("X", B, N), variable("g", B, M)
    z, tape = dense.dense_forward(x, a)
    found = backward(tape, g)
    _check(z, x @ a.T, g, [("X", found.x, x), ("A", found.weight, a)])
    return "dense without a bias"


def _batch_add() -> str:
    x, v, g = variable("X", B, N), variable("v", N), variable("g", B, N)
    z, tape = dense.dense_forward(x, identity(N), v)
    found = backward(tape, g)
    _check(z, x + v, g, [("X", found.x, x), ("v", found.bias, v)])
    return "dense with weight I and bias v"


def obligations() -> list[Obligation]:
    """The obligations of this module, in the order of the table."""
    rules: list[tuple[str, str, str, str, Callable[[], str]]] = [
        ("vadd", "VJP of u + v: g in u, g in v", "vadd", "n", lambda: f"{vadd()}; {_sum(N)}"),
        ("vsub", "VJP of u − v: g in u, −g in v", "vsub", "n", lambda: _difference(N)),
        ("smul", "VJP of c v: c g in v, ⟨g, v⟩ in c", "smul", "n", lambda: f"{smul()}; {_multiple(N)}"),
        ("matAdd", "VJP of A + B: g in A, g in B", "maadd", "m, n", lambda: f"mn entries in a row: {_sum(MN)}"),
        ("matSub", "VJP of A − B: g in A, −g in B", "masub", "m, n", lambda: f"mn entries in a row: {_difference(MN)}"),
        ("matSmul", "VJP of c A: c g in A, ⟨g, A⟩ in c", "msmul", "m, n",
         lambda: f"mn entries in a row: {_multiple(MN)}"),
        ("transpose", "VJP of Aᵀ: gᵀ", "transpose", "m, n", _transpose),
        ("vmul", "VJP of u ⊙ v: g ⊙ v in u, g ⊙ u in v", "vmul", "n", _product),
        ("dot", "VJP of ⟨u, v⟩: g v in u, g u in v", "dot", "n", _dot),
        ("normSq", "VJP of ‖v‖²: 2 g v", "normSq", "n", _norm_squared),
        ("outer", "VJP of u vᵀ: g v in u, gᵀ u in v", "outer", "m, n", _outer),
        ("matvec", "VJP of Av: Aᵀ g in v, g vᵀ in A", "matvec", "m, n",
         lambda: matvec_by_vector() and matvec_by_matrix()),
        ("matmul", "VJP of AB: g Bᵀ in A, Aᵀ g in B", "matmul", "m, n, C", _matmul),
        ("batchMatvec", "VJP of XAᵀ: g A in X, gᵀ X in A", "batchMatvec", "B, m, n", _batch_matvec),
        ("batchAddVec", "VJP of X + v in every row: g in X, Σ_B g in v", "batchAddVec", "B, n", _batch_add),
    ]  # fmt: skip
    return [
        Obligation(
            f"linear-algebra.{name}", statement, f"{CORE}.{source}", "symbolic", f"for all {sizes}", SYMBOLIC, run
        )
        for name, statement, source, sizes, run in rules
    ]
