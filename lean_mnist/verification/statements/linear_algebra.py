"""The fifteen rules of linear algebra, for every size.

``chainrule`` has one linear operation, the dense layer ``x Wᵀ + b``, and every rule is a special case of it: the table
says which. Its forward is a polynomial in the entries of ``x``, ``W`` and ``b``, so it is differentiable in each; what
is proved is its value, and that the gradients it gives are SymPy's derivatives of that value. Matrices are added and
scaled as the vectors of their entries, row by row.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import sympy

from lean_mnist.chainrule import dense
from lean_mnist.verification.methods.indexed import IndexedArray, column, gradient, identity, inner, row, variable
from lean_mnist.verification.methods.networks import B, C, M, N
from lean_mnist.verification.methods.proofs import prove_equal
from lean_mnist.verification.model import Check, Statements


def prove_dense(
    detail: str,
    variables: Sequence[IndexedArray],
    x: IndexedArray,
    weight: IndexedArray,
    value: IndexedArray,
    bias: IndexedArray | None = None,
    *,
    vjp: Mapping[str, Callable[[IndexedArray], IndexedArray]] = {},
) -> str:
    """Prove a rule as the dense layer of ``x (B, D)``, ``weight (H, D)`` and ``bias (H,)``; returns ``detail``.

    Proved are the ``value (B, H)`` and the gradients of the ``variables`` that the arrays are made of: SymPy's, and for
    the variables named in ``vjp`` a formula of the upstream gradient ``g (B, H)``, too.
    """
    z, tape = dense.dense_forward(x, weight, bias)
    prove_equal("the value", z, value)
    g = variable("g", *z.shape)
    parts = [part for part in zip((x, weight, bias), dense.dense_backward(tape, g), strict=True) if part[0] is not None]
    for of in variables:
        found = _pulled_back(parts, of)
        prove_equal(f"the VJP in {of.name}", found, gradient(inner(z, g), of))
        if of.name in vjp:
            prove_equal(f"the formula for {of.name}", found, vjp[of.name](g))
    return detail


def _pulled_back(parts: list[tuple[Any, Any]], of: IndexedArray) -> IndexedArray:
    """The gradient of a variable that arrays are made of, from ``parts``: pairs of an array and its gradient."""

    def entry(*place: Any) -> Any:
        return sum(inner(array.map(lambda e: sympy.diff(e, of.at(*place))), found) for array, found in parts)

    return IndexedArray(of.shape, entry)


def _first_row(matrix: IndexedArray) -> IndexedArray:
    return IndexedArray(matrix.shape[1:], lambda i: matrix.at(sympy.Integer(0), i))


def vadd(size: sympy.Expr = N, sign: int = 1) -> str:
    """``b ± v``."""
    v, b = variable("v", size), variable("b", size)
    formulas = {"v": lambda g: _first_row(g * sign), "b": _first_row}
    detail = f"dense with weight {'I' if sign > 0 else '−I'} and bias b"
    return prove_dense(detail, (v, b), row(v), identity(size) * sign, row(b + v * sign), b, vjp=formulas)


def smul(size: sympy.Expr = N) -> str:
    """``c v``; the gradient of c is the trace of the weight's."""
    c, v = variable("c"), variable("v", size)
    formulas = {"v": lambda g: _first_row(g * c.at())}
    return prove_dense("dense with weight c I", (v, c), row(v), identity(size) * c.at(), row(v * c.at()), vjp=formulas)


def matvec(of: str = "Av") -> str:
    """``A v``, and the gradients in those of the two that ``of`` names."""
    a, v = variable("A", M, N), variable("v", N)
    chosen = [one for one in (v, a) if one.name in of]
    formulas = {"v": lambda g: _first_row(g @ a), "A": lambda g: g.T @ row(v)}
    return prove_dense("dense with a batch of one and no bias", chosen, row(v), a, row(v) @ a.T, vjp=formulas)


OBLIGATIONS = Statements("linear-algebra", "Linear algebra")


def _add(name: str, statement: str, sizes: str, run: Check, source: str = "") -> None:
    OBLIGATIONS.add(name, statement, f"LinearAlgebra.{source or name}", f"for all {sizes}", run)


_U, _V, _W, _A, _X = variable("u", N), variable("v", N), variable("w", M), variable("A", M, N), variable("X", B, N)
_B = variable("B", N, C)
_ENTRIES = "mn entries in a row: {}".format  # a matrix of m rows and n columns, row by row
_case = partial(partial, prove_dense)
_vmul = _case("dense of u with weight diag(v)", (_U, _V), row(_U), identity(N) * _V, row(_U * _V))
_dot = _case("dense of u with the one unit v", (_U, _V), row(_U), row(_V), row(_U) @ column(_V))
_normsq = "dense of v with the one unit v; the two gradients of v add up"
_outer = _case(
    "dense of m examples of one feature with n units", (_W, _V), column(_W), column(_V), column(_W) @ row(_V)
)
_matmul = _case("dense of A with weight Bᵀ", (_A, _B), _A, _B.T, _A @ _B)
_batch = _case("dense without a bias", (_X, _A), _X, _A, _X @ _A.T)
_rows = _case("dense with weight I and bias v", (_X, _V), _X, identity(N), _X + _V, _V)

_add("vadd", "VJP of u + v: g in u, g in v", "n", vadd)
_add("vsub", "VJP of u − v: g in u, −g in v", "n", partial(vadd, sign=-1))
_add("smul", "VJP of c v: c g in v, ⟨g, v⟩ in c", "n", smul)
_add("matAdd", "VJP of A + B: g in A, g in B", "m, n", lambda: _ENTRIES(vadd(M * N)), "maadd")
_add("matSub", "VJP of A − B: g in A, −g in B", "m, n", lambda: _ENTRIES(vadd(M * N, -1)), "masub")
_add("matSmul", "VJP of c A: c g in A, ⟨g, A⟩ in c", "m, n", lambda: _ENTRIES(smul(M * N)), "msmul")
_add("transpose", "VJP of Aᵀ: gᵀ", "m, n", _case("dense of I with weight A", (_A,), identity(N), _A, _A.T))
_add("vmul", "VJP of u ⊙ v: g ⊙ v in u, g ⊙ u in v", "n", _vmul)
_add("dot", "VJP of ⟨u, v⟩: g v in u, g u in v", "n", _dot)
_add("normSq", "VJP of ‖v‖²: 2 g v", "n", _case(_normsq, (_V,), row(_V), row(_V), row(_V) @ column(_V)))
_add("outer", "VJP of u vᵀ: g v in u, gᵀ u in v", "m, n", _outer)
_add("matvec", "VJP of Av: Aᵀ g in v, g vᵀ in A", "m, n", matvec)
_add("matmul", "VJP of AB: g Bᵀ in A, Aᵀ g in B", "m, n, C", _matmul)
_add("batchMatvec", "VJP of XAᵀ: g A in X, gᵀ X in A", "B, m, n", _batch)
_add("batchAddVec", "VJP of X + v in every row: g in X, Σ_B g in v", "B, n", _rows)

_Z, _P, _Q = variable("z", N), variable("c"), variable("d")


def _plus(u: IndexedArray, v: IndexedArray) -> IndexedArray:
    return _first_row(dense.dense_forward(row(u), identity(N), v)[0])


def _times(c: Any, v: IndexedArray) -> IndexedArray:
    return _first_row(dense.dense_forward(row(v), identity(N) * c.at())[0])


def _law(*pairs: Callable[[], tuple[IndexedArray, IndexedArray]]) -> Check:
    def run() -> str:
        for pair in pairs:
            prove_equal("the left side", *pair())
        return "sums are dense with weight I and a bias, multiples dense with weight c I"

    return run


_commute = _law(lambda: (_plus(_U, _V), _plus(_V, _U)))
_associate = _law(lambda: (_plus(_plus(_U, _V), _Z), _plus(_U, _plus(_V, _Z))))
_distribute = _law(
    lambda: (_times(_P, _plus(_U, _V)), _plus(_times(_P, _U), _times(_P, _V))),
    lambda: (_times(_P + _Q, _V), _plus(_times(_P, _V), _times(_Q, _V))),
    lambda: (_times(_P, _times(_Q, _V)), _times(_P * _Q, _V)),
)
_SCALED = "c (u + v) = c u + c v, (c + d) v = c v + d v, c (d v) = (c d) v"
_add("vadd-commutative", "u + v = v + u", "n", _commute, "vadd_commutative")
_add("vadd-associative", "(u + v) + z = u + (v + z)", "n", _associate, "vadd_associative")
_add("smul-distributes", _SCALED, "n", _distribute, "smul_distributes")
