"""Properties of softmax cross-entropy, for every number of classes: those LEAN_mnist proves, and those it wanted.

Every inequality is proved by writing its two sides' difference as a sum of products that cannot be negative, an
identity that is checked symbolically on what ``losses.softmax_cross_entropy`` computes. With ``p = softmax(s)``::

    e^loss − 1            = Σ_(k≠y) e^(s_k − s_y)
    vᵀ H v                = ½ Σ_jk p_j p_k (v_j − v_k)²                                        H: derivative of ∇loss
    ½ ‖v‖² − vᵀ H v       = 2 Σ_k (½ − p_k)² v_k² + ½ Σ_(j≠k) p_j p_k (v_j + v_k)²
    2 − ‖∇loss‖²          = 2 p_y + Σ_(j≠k) p_j p_k
    1 − ∂loss/∂s_k        = Σ_(j≠k) p_j + onehot(y)_k         1 + ∂loss/∂s_k = p_k + (1 − onehot(y)_k)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import sympy
from sympy import KroneckerDelta

from lean_mnist.chainrule import losses
from lean_mnist.verification import assumptions as rests_on
from lean_mnist.verification.gradients import SYMBOLIC, B, C
from lean_mnist.verification.indexed import IndexedArray, any_labels, gradient, variable
from lean_mnist.verification.model import NotEstablished, Obligation
from lean_mnist.verification.proofs import prove_nonnegative, prove_zero
from lean_mnist.verification.sums import Expr, Index, total

LIMIT_CLASSES = (2, 3, 4)


class _Example(NamedTuple):
    """One example of any batch: its logits, label, loss, probabilities and gradient, as the chain rule gives them."""

    b: Index
    s: IndexedArray
    y: Expr
    loss: Expr
    p: IndexedArray
    d_s: IndexedArray


def _example(s: IndexedArray | None = None) -> _Example:
    s = variable("s", B, C) if s is None else s
    labels, cross_entropy = any_labels(B, C), losses.softmax_cross_entropy()
    loss_B, tape = cross_entropy.forward(s, labels)
    d_s = cross_entropy.backward(tape, IndexedArray((B,), lambda _: sympy.Integer(1)))
    (b,) = labels.indices("b")
    return _Example(b, s, labels.at(b), loss_B.at(b), losses.softmax_forward(s)[0], d_s)


def _sum(term: Callable[[Index], Expr]) -> Expr:
    k = Index("k", C)
    return total(term(k), k)


def _others(y: Expr, term: Callable[[Index], Expr]) -> Expr:
    """``Σ_(k≠y) term(k)``."""
    return _sum(lambda k: (1 - KroneckerDelta(k, y)) * term(k))


def _at_least_zero(what: str, difference: Expr, *parts: Expr) -> None:
    """``difference`` is the sum of ``parts``, none of which can be negative."""
    prove_zero(what, difference, sympy.Add(*parts))
    for part in parts:
        prove_nonnegative(what, part)


def _exponentials(e: _Example, without: Expr, relative_to: Expr) -> Expr:
    """``Σ_(k≠without) e^(s_k − relative_to)``, written with the shift ``m`` that the loss is computed with."""
    m = variable("m", B, sympy.Integer(1)).at(e.b, sympy.Integer(0))
    return sympy.exp(m - relative_to) * _others(without, lambda k: sympy.exp(e.s.at(e.b, k) - m))


def _log_sum_exp() -> str:
    e = _example()
    s_y = e.s.at(e.b, e.y)
    rest = _exponentials(e, e.y, sympy.Integer(0))
    _at_least_zero("e^LSE − e^(s_y)", sympy.exp(e.loss + s_y) - sympy.exp(s_y), rest)
    return "LSE is our loss plus s_y, and y is any class; e^LSE − e^(s_y) = Σ_(k≠y) e^(s_k) ≥ 0"


def _nonnegative() -> str:
    e = _example()
    _at_least_zero("e^loss − 1", sympy.exp(e.loss) - 1, _exponentials(e, e.y, e.s.at(e.b, e.y)))
    return "e^loss − 1 = Σ_(k≠y) e^(s_k − s_y) ≥ 0"


def _zero_in_the_limit() -> str:
    e = _example()
    # Of the sum's C − 1 terms each is positive, so the loss is above 0 where C ≥ 2.
    prove_zero("e^loss − 1", sympy.exp(e.loss) - 1, _exponentials(e, e.y, e.s.at(e.b, e.y)))
    prove_zero("e^−loss", sympy.exp(-e.loss), e.p.at(e.b, e.y))  # so loss → 0 exactly where p_y → 1
    for classes in LIMIT_CLASSES:
        s, loss = _small_loss(classes)
        if sympy.limit(loss, s[0], sympy.oo) != 0:
            raise NotEstablished(f"the limit for s_y → ∞ with {classes} classes was not found to be 0")
    return "loss > 0 where C ≥ 2, since e^loss − 1 has a positive term; e^−loss = p_y, so loss → 0 where p_y → 1"


def _small_loss(classes: int) -> tuple[list[Expr], Expr]:
    s = [sympy.Symbol(f"s{k}", real=True) for k in range(classes)]
    loss_B, _ = losses.softmax_cross_entropy().forward(np.array([s], dtype=object), np.array([0]))
    return s, loss_B[0]


def _unbounded() -> str:
    e = _example()
    k = Index("k", C)  # any class
    s_k, s_y = e.s.at(e.b, k), e.s.at(e.b, e.y)
    excess = sympy.exp(e.loss) - sympy.exp(s_k - s_y)
    _at_least_zero("e^loss − e^(s_k − s_y)", excess, _exponentials(e, k, s_y))
    for classes in LIMIT_CLASSES:
        s, loss = _small_loss(classes)
        if sympy.limit(loss, s[0], -sympy.oo) != sympy.oo:
            raise NotEstablished(f"the limit for s_y → −∞ with {classes} classes was not found to be ∞")
    return "loss ≥ s_k − s_y for every class k, and s_k − s_y may be any number where C ≥ 2"


def _curvature() -> tuple[_Example, IndexedArray, Expr]:
    """``vᵀ H v`` for any ``v``, where ``H v`` is the derivative of our gradient along ``v``."""
    t, v = sympy.Symbol("t", real=True), variable("v", B, C)
    e, moved = _example(), _example(variable("s", B, C) + v * t)
    return e, v, _sum(lambda k: v.at(e.b, k) * sympy.diff(moved.d_s.at(e.b, k), t).subs(t, 0))


def _convex() -> str:
    e, v, curvature = _curvature()
    squares = _sum(lambda j: _sum(lambda k: e.p.at(e.b, j) * e.p.at(e.b, k) * (v.at(e.b, j) - v.at(e.b, k)) ** 2 / 2))
    _at_least_zero("vᵀHv", curvature, squares)
    prove_zero("our gradient", e.d_s.at(*(place := e.s.indices())), gradient(_total_loss(), e.s).at(*place))
    return "vᵀHv = ½ Σ_jk p_j p_k (v_j − v_k)² ≥ 0 for every v, H the derivative of our gradient"


def _total_loss() -> Expr:
    loss_B, _ = losses.softmax_cross_entropy().forward(variable("s", B, C), any_labels(B, C))
    return loss_B.sum(0).at()


def _gradient_lipschitz() -> str:
    e, v, curvature = _curvature()
    squared_norm = _sum(lambda k: v.at(e.b, k) ** 2)
    diagonal = _sum(lambda k: 2 * (sympy.Rational(1, 2) - e.p.at(e.b, k)) ** 2 * v.at(e.b, k) ** 2)
    pairs = _sum(
        lambda j: _others(j, lambda k: e.p.at(e.b, j) * e.p.at(e.b, k) * (v.at(e.b, j) + v.at(e.b, k)) ** 2 / 2)
    )
    _at_least_zero("½‖v‖² − vᵀHv", squared_norm / 2 - curvature, diagonal, pairs)
    return "½‖v‖² − vᵀHv = 2 Σ (½ − p_k)² v_k² + ½ Σ_(j≠k) p_j p_k (v_j + v_k)² ≥ 0, and H ⪰ 0"


def _lipschitz() -> str:
    e = _example()
    squared_norm = _sum(lambda k: e.d_s.at(e.b, k) ** 2)
    pairs = _sum(lambda j: _others(j, lambda k: e.p.at(e.b, j) * e.p.at(e.b, k)))
    _at_least_zero("2 − ‖∇loss‖²", 2 - squared_norm, 2 * e.p.at(e.b, e.y), pairs)
    return "2 − ‖p − onehot(y)‖² = 2 p_y + Σ_(j≠k) p_j p_k ≥ 0"


def _sums_to_zero() -> str:
    e = _example()
    prove_zero("Σ ∂loss/∂s_k", _sum(lambda k: e.d_s.at(e.b, k)))
    return "what the backward gives, summed over the classes"


def _components() -> str:
    e = _example()
    k = Index("k", C)
    is_label = KroneckerDelta(k, e.y)
    _at_least_zero("1 − ∂loss/∂s_k", 1 - e.d_s.at(e.b, k), _others(k, lambda j: e.p.at(e.b, j)), is_label)
    _at_least_zero("1 + ∂loss/∂s_k", 1 + e.d_s.at(e.b, k), e.p.at(e.b, k), 1 - is_label)
    return "1 ∓ ∂loss/∂s_k written as sums of terms that are at least 0"


def obligations() -> list[Obligation]:
    """The obligations of this module, in the order of the table."""
    limits = ", ".join(map(str, LIMIT_CLASSES))
    wanted = "wanted:"
    rules: list[tuple[str, str, str, str, Callable[[], str]]] = [
        ("log-sum-exp", "log Σ e^(s_k) ≥ s_j for every j", "Real.logSumExp_ge_component", "for all B, C", _log_sum_exp),
        ("nonnegative", "loss ≥ 0", "loss_nonneg_real", "for all B, C", _nonnegative),
        ("zero", "loss > 0, and → 0 exactly where p_y → 1", f"{wanted} loss_zero_iff_perfect",
         f"for all B and C ≥ 2, limits for C = {limits}", _zero_in_the_limit),
        ("unbounded", "loss has no upper bound", f"{wanted} loss_unbounded_above",
         f"for all B and C ≥ 2, limits for C = {limits}", _unbounded),
        ("convex", "loss is convex in the logits", f"{wanted} loss_convex", "for all B, C", _convex),
        ("lipschitz", "‖p − onehot(y)‖ ≤ √2: loss is √2-Lipschitz", f"{wanted} loss_lipschitz", "for all B, C",
         _lipschitz),
        ("gradient-sum", "Σ_k ∂loss/∂s_k = 0", f"{wanted} gradient_sum_zero", "for all B, C", _sums_to_zero),
        ("gradient-bounded", "−1 ≤ ∂loss/∂s_k ≤ 1", f"{wanted} gradient_bounded", "for all B, C", _components),
        ("gradient-lipschitz", "∇loss is ½-Lipschitz in the logits", f"{wanted} gradient_lipschitz", "for all B, C",
         _gradient_lipschitz),
    ]  # fmt: skip
    return [
        Obligation(f"loss.{name}", statement, source, "symbolic", scope, (*SYMBOLIC, rests_on.CALCULUS), run)
        for name, statement, source, scope, run in rules
    ]
