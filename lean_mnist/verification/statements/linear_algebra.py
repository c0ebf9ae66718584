"""The fifteen rules of linear algebra, for every size.

``chainrule`` has one linear operation, the dense layer ``x Wᵀ + b``, and every rule is a special case of it: the table
says which. Its forward is a polynomial in the entries of ``x``, ``W`` and ``b``, so it is differentiable in each; what
is proved is its value, and that the gradients it gives are SymPy's derivatives of that value. Matrices are added and
scaled as the vectors of their entries, row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sympy

from lean_mnist.chainrule import dense
from lean_mnist.verification.methods.indexed import (
    IndexedArray,
    column,
    constant,
    gradient,
    identity,
    inner,
    row,
    variable,
)
from lean_mnist.verification.methods.networks import B, C, M, N
from lean_mnist.verification.methods.proofs import prove_equal
from lean_mnist.verification.model import Statements

ONE = sympy.Integer(1)


@dataclass(frozen=True)
class DenseCase:
    """A rule as the dense layer of ``x (B, D)``, ``weight (H, D)`` and ``bias (H,)``, made of the ``variables``.

    ``value (B, H)`` is what the rule says; ``vjp`` holds, by the name of a variable, a formula of the upstream gradient
    ``g (B, H)`` that is proved beside SymPy's derivative.
    """

    variables: tuple[IndexedArray, ...]
    x: IndexedArray
    weight: IndexedArray
    value: IndexedArray
    bias: IndexedArray | None = None
    vjp: dict[str, Callable[[IndexedArray], IndexedArray]] = field(default_factory=dict)

    def prove(self, detail: str, of: str = "") -> str:
        """Prove the value and the gradients, of all variables or of that named ``of``; returns ``detail``."""
        z, tape = dense.dense_forward(self.x, self.weight, self.bias)
        prove_equal("the value", z, self.value)
        g = variable("g", *z.shape)
        found = dense.dense_backward(tape, g)
        parts = [(self.x, found.x_BD), (self.weight, found.weight_HD), (self.bias, found.bias_H)]
        for variable_ in self.variables:
            if of in ("", variable_.name):
                pulled = _pulled_back([part for part in parts if part[0] is not None], variable_)
                prove_equal(f"the VJP in {variable_.name}", pulled, gradient(inner(z, g), variable_))
                if variable_.name in self.vjp:
                    prove_equal(f"the formula for {variable_.name}", pulled, self.vjp[variable_.name](g))
        return detail


def _pulled_back(parts: list[tuple[Any, Any]], of: IndexedArray) -> IndexedArray:
    """The gradient of a variable that arrays are made of, from ``parts``: pairs of an array and its gradient."""
    placeholders = {f"gradient{n}": found for n, (_, found) in enumerate(parts)}
    objective = sum(
        inner(array, variable(name, *array.shape)) for (array, _), name in zip(parts, placeholders, strict=True)
    )
    derivative = gradient(objective, of)

    def entry(*place: Any) -> Any:
        return derivative.at(*place).replace(
            lambda e: isinstance(e, sympy.Indexed) and str(e.base) in placeholders,
            lambda e: placeholders[str(e.base)].at(*e.indices),
        )

    return IndexedArray(of.shape, entry)


def _first_row(matrix: IndexedArray) -> IndexedArray:
    return IndexedArray(matrix.shape[1:], lambda i: matrix.at(sympy.Integer(0), i))


def vadd(size: sympy.Expr = N, sign: int = 1) -> str:
    """``b ± v``."""
    v, b = variable("v", size), variable("b", size)
    formulas = {"v": lambda g: _first_row(g * sign), "b": _first_row}
    case = DenseCase((v, b), row(v), identity(size) * sign, row(b + v * sign), b, formulas)
    return case.prove(f"dense with weight {'I' if sign > 0 else '−I'} and bias b")


def smul(size: sympy.Expr = N) -> str:
    """``c v``; the gradient of c is the trace of the weight's."""
    c, v = variable("c"), variable("v", size)
    formulas = {"v": lambda g: _first_row(g * c.at())}
    return DenseCase((v, c), row(v), identity(size) * c.at(), row(v * c.at()), vjp=formulas).prove(
        "dense with weight c I"
    )


def matvec(of: str = "") -> str:
    """``A v``."""
    a, v = variable("A", M, N), variable("v", N)
    formulas = {"v": lambda g: _first_row(g @ a), "A": lambda g: g.T @ row(v)}
    return DenseCase((v, a), row(v), a, row(v) @ a.T, vjp=formulas).prove("dense with a batch of one and no bias", of)


OBLIGATIONS = Statements("linear-algebra", "Linear algebra")
_U, _V, _W, _A, _X = variable("u", N), variable("v", N), variable("w", M), variable("A", M, N), variable("X", B, N)
_B = variable("B", N, C)
_ENTRIES = "mn entries in a row: {}".format  # a matrix of m rows and n columns, row by row
for _name, _statement, _source, _sizes, _check in (
    ("vadd", "VJP of u + v: g in u, g in v", "vadd", "n", vadd),
    ("vsub", "VJP of u − v: g in u, −g in v", "vsub", "n", partial(vadd, sign=-1)),
    ("smul", "VJP of c v: c g in v, ⟨g, v⟩ in c", "smul", "n", smul),
    ("matAdd", "VJP of A + B: g in A, g in B", "maadd", "m, n", lambda: _ENTRIES(vadd(M * N))),
    ("matSub", "VJP of A − B: g in A, −g in B", "masub", "m, n", lambda: _ENTRIES(vadd(M * N, -1))),
    ("matSmul", "VJP of c A: c g in A, ⟨g, A⟩ in c", "msmul", "m, n", lambda: _ENTRIES(smul(M * N))),
    (
        *("transpose", "VJP of Aᵀ: gᵀ", "transpose", "m, n"),
        partial(DenseCase((_A,), identity(N), _A, _A.T).prove, "dense of I with weight A"),
    ),
    (
        *("vmul", "VJP of u ⊙ v: g ⊙ v in u, g ⊙ u in v", "vmul", "n"),
        partial(DenseCase((_U, _V), row(_U), identity(N) * _V, row(_U * _V)).prove, "dense of u with weight diag(v)"),
    ),
    (
        *("dot", "VJP of ⟨u, v⟩: g v in u, g u in v", "dot", "n"),
        partial(
            DenseCase((_U, _V), row(_U), row(_V), constant(inner(_U, _V), ONE, ONE)).prove,
            "dense of u with the one unit v",
        ),
    ),
    (
        *("normSq", "VJP of ‖v‖²: 2 g v", "normSq", "n"),
        partial(
            DenseCase((_V,), row(_V), row(_V), constant(inner(_V, _V), ONE, ONE)).prove,
            "dense of v with the one unit v; v is used twice, so its two gradients add up",
        ),
    ),
    (
        *("outer", "VJP of u vᵀ: g v in u, gᵀ u in v", "outer", "m, n"),
        partial(
            DenseCase((_W, _V), column(_W), column(_V), column(_W) @ row(_V)).prove,
            "dense of m examples of one feature with n units",
        ),
    ),
    ("matvec", "VJP of Av: Aᵀ g in v, g vᵀ in A", "matvec", "m, n", matvec),
    (
        *("matmul", "VJP of AB: g Bᵀ in A, Aᵀ g in B", "matmul", "m, n, C"),
        partial(DenseCase((_A, _B), _A, _B.T, _A @ _B).prove, "dense of A with weight Bᵀ"),
    ),
    (
        *("batchMatvec", "VJP of XAᵀ: g A in X, gᵀ X in A", "batchMatvec", "B, m, n"),
        partial(DenseCase((_X, _A), _X, _A, _X @ _A.T).prove, "dense without a bias"),
    ),
    (
        *("batchAddVec", "VJP of X + v in every row: g in X, Σ_B g in v", "batchAddVec", "B, n"),
        partial(DenseCase((_X, _V), _X, identity(N), _X + _V, _V).prove, "dense with weight I and bias v"),
    ),
):
    OBLIGATIONS(f"LinearAlgebra.{_source}", f"for all {_sizes}", name=_name, statement=_statement)(_check)
