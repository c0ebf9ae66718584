"""Covariances, and solves of structured matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.wild.case import Call, Case, Expect, load, normal, uniform

_FUNCTIONS, _VARIATIONAL = "linear_operator.functions.", "gpytorch.variational."
_CONSTANT = "saves the derivative as a constant, so that a second derivative is silently 0"


def _spd(root: Tensor) -> Tensor:
    """A well conditioned symmetric matrix."""
    return root @ root.mT / root.shape[-1] + torch.eye(root.shape[-1], dtype=root.dtype)


def _tree(matrix: Tensor) -> Any:
    return load("linear_operator:to_linear_operator")(matrix).representation_tree()


def _square(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] - b[None]).square().sum(-1)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return _square(a, b).clamp_min(1e-30).sqrt()


def _rbf() -> Call:
    first, second = torch.randn(4, 2), torch.randn(3, 2)

    def function(length: Tensor) -> Any:
        apply = load("gpytorch.functions.rbf_covariance:RBFCovariance").apply
        return apply(first.to(length), second.to(length), length, _square)

    return Call(function, [uniform(1, 1, low=0.5, high=1.5)],
                lambda length: (_square(first.to(length), second.to(length)) / length**2 / -2).exp())  # fmt: skip


def _matern(nu: float) -> Call:
    first, second = torch.randn(4, 2), torch.randn(3, 2)

    def function(length: Tensor) -> Any:
        apply = load("gpytorch.functions.matern_covariance:MaternCovariance").apply
        return apply(first.to(length), second.to(length), length, nu, _distance)

    return Call(function, [uniform(1, 1, low=0.5, high=1.5)])


def _predictive() -> Call:
    def function(root: Tensor, data: Tensor, middle: Tensor, values: Tensor) -> Any:
        apply = load(_VARIATIONAL + "variational_strategy:ComputePredictiveUpdates").apply
        return apply(torch.linalg.cholesky(_spd(root)), data, middle + middle.mT, values)

    def reference(root: Tensor, data: Tensor, middle: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        term = torch.linalg.solve_triangular(torch.linalg.cholesky(_spd(root)), data, upper=False)
        return term.mT @ values, (term * ((middle + middle.mT) @ term)).sum(0)

    return Call(function, [normal(4, 4), normal(4, 3), normal(4, 4), normal(4)], reference)


def _natural(name: str) -> Call:
    def function(mean: Tensor, root: Tensor) -> Any:
        return load(f"{_VARIATIONAL}{name}").apply(mean, -0.5 * _spd(root))

    return Call(function, [normal(3), normal(3, 3)], options={"intended": "natural gradient"})


def _tril_natural() -> Call:
    apply = load(_VARIATIONAL + "tril_natural_variational_distribution:_TrilNaturalToMuVarSqrt").apply
    return Call(lambda mean, root: apply(mean, torch.linalg.cholesky(_spd(root))), [normal(3), normal(3, 3)],
                options={"intended": "natural gradient"})  # fmt: skip


def _operator(name: str, call: Callable[[Any, Tensor, Tensor], Any], reference: Callable[[Tensor, Tensor], Any],
              **options: Any) -> Call:  # fmt: skip
    """A function of a symmetric positive definite matrix and a right-hand side."""

    def function(root: Tensor, right: Tensor) -> Any:
        matrix = _spd(root)
        return call(load(f"{_FUNCTIONS}{name}").apply, matrix, right)

    return Call(function, [normal(5, 5), normal(5, 2)], lambda r, b: reference(_spd(r), b), options)


def _inverse_root(matrix: Tensor, right: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.rsqrt()) @ (vectors.mT @ right)


def _dsmm() -> Call:
    sparse = torch.eye(4, 5).to_sparse()
    return Call(lambda dense: load(_FUNCTIONS + "_dsmm:DSMM").apply(sparse.to(dense.dtype), dense), [normal(5, 3)],
                lambda dense: dense[:4])  # fmt: skip


def _pivoted() -> Call:
    def function(root: Tensor) -> Any:
        matrix = _spd(root)
        apply = load(_FUNCTIONS + "_pivoted_cholesky:PivotedCholesky").apply
        lower, _ = apply(_tree(matrix), 3, 1e-3, matrix)
        return lower

    return Call(function, [normal(5, 5)])


CASES = [
    Case("gpytorch", "RBFCovariance", Expect.SECOND, _CONSTANT, _rbf),
    Case("gpytorch", "MaternCovariance, nu = 1/2", Expect.SECOND, _CONSTANT, lambda: _matern(0.5)),
    Case("gpytorch", "MaternCovariance, nu = 3/2", Expect.SECOND, _CONSTANT, lambda: _matern(1.5)),
    Case("gpytorch", "MaternCovariance, nu = 5/2", Expect.SECOND, _CONSTANT, lambda: _matern(2.5)),
    Case("gpytorch", "LogNormalCDF", Expect.RIGHT, "a rational approximation, and so is its "
         "slope: right to 4e-4", lambda: Call(load("gpytorch.functions._log_normal_cdf:LogNormalCDF").apply,
                                              [normal(4, 5)], options={"tolerance": 1e-3})),
    Case("gpytorch", "QuadFormDiagonal", Expect.SECOND, "saves A B, so that a second derivative lacks terms",
         lambda: Call(lambda r, b: load(_VARIATIONAL + "large_batch_variational_strategy:QuadFormDiagonal").apply(
             _spd(r), b), [normal(4, 4), normal(4, 6)], lambda r, b: (b * (_spd(r) @ b)).sum(-2))),
    Case("gpytorch", "ComputePredictiveUpdates", Expect.SECOND, "saves the solve, so that a second derivative lacks "
         "terms", _predictive),
    Case("gpytorch", "_NaturalToMuVarSqrt", Expect.INTENDED, "the natural gradient, by its documentation",
         lambda: _natural("natural_variational_distribution:_NaturalToMuVarSqrt")),
    Case("gpytorch", "_TrilNaturalToMuVarSqrt", Expect.INTENDED, "the natural gradient, by its documentation",
         _tril_natural),
    Case("linear_operator", "Matmul", Expect.RIGHT, "a structured matrix times a matrix",
         lambda: _operator("_matmul:Matmul", lambda f, a, b: f(_tree(a), b, a), lambda a, b: a @ b)),
    Case("linear_operator", "Solve", Expect.RIGHT, "the backward is a Solve again",
         lambda: _operator("_solve:Solve", lambda f, a, b: f(_tree(a), False, b, a), torch.linalg.solve)),
    Case("linear_operator", "Solve with a left factor", Expect.SECOND, "saves the solves as constants",
         lambda: _operator("_solve:Solve", lambda f, a, b: f(_tree(a), True, b.mT.contiguous(), b, a),
                           lambda a, b: b.mT @ torch.linalg.solve(a, b))),
    Case("linear_operator", "InvQuad", Expect.SECOND, "saves the solve, so that a second derivative lacks terms",
         lambda: _operator("_inv_quad:InvQuad", lambda f, a, b: f(_tree(a), b, a),
                           lambda a, b: (b * torch.linalg.solve(a, b)).sum(-2))),
    Case("linear_operator", "SqrtInvMatmul", Expect.SECOND,
         "by contour integral quadrature; saves the solves as constants",
         lambda: _operator("_sqrt_inv_matmul:SqrtInvMatmul", lambda f, a, b: f(_tree(a), b, None, a)[0],
                           _inverse_root, tolerance=1e-3)),
    Case("linear_operator", "DSMM", Expect.RIGHT, "a sparse matrix times a dense one", _dsmm),
    Case("linear_operator", "PivotedCholesky", Expect.SECOND, "saves the pivots and the factor as constants", _pivoted),
]  # fmt: skip
