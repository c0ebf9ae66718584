"""Properties of softmax cross-entropy, for every number of classes: those LEAN_mnist proves, and those it planned.

Every inequality is proved by writing its two sides' difference as a sum of products that cannot be negative, an
identity that is checked symbolically on what ``losses.softmax_cross_entropy`` computes. ``p`` is ``softmax(s)``.
"""

from collections.abc import Callable
from functools import partial

import sympy
from sympy import KroneckerDelta

from lean_mnist.chainrule import losses
from lean_mnist.verification import assumptions as rests_on
from lean_mnist.verification.methods.indexed import IndexedArray, any_labels, constant, variable
from lean_mnist.verification.methods.networks import B, C
from lean_mnist.verification.methods.proofs import prove_nonnegative, prove_vjp, prove_zero
from lean_mnist.verification.methods.sums import Expr, Index, total
from lean_mnist.verification.model import Statements

SIZES, TWO = "for all B, C", "for all B and C ≥ 2"
OBLIGATIONS = proved = Statements("loss", "Loss properties", *rests_on.SYMBOLIC, rests_on.CALCULUS)


_B = Index("b", B)  # the example


class _Example:
    """Any example of any batch, as the chain rule gives it."""

    def __init__(self, s: IndexedArray | None = None) -> None:
        self.logits = variable("s", B, C) if s is None else s
        labels, cross_entropy = any_labels(B, C), losses.softmax_cross_entropy()
        self.losses, tape = cross_entropy.forward(self.logits, labels)
        self.gradient = cross_entropy.backward(tape, constant(1, B))
        self.y, self.loss = labels.at(_B), self.losses.at(_B)
        # Of the class: logit, probability, derivative of the loss.
        arrays = (self.logits, losses.softmax_forward(self.logits)[0], self.gradient)
        self.s, self.p, self.d_s = (partial(array.at, _B) for array in arrays)


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
    m = variable("m", B, sympy.Integer(1)).at(_B, sympy.Integer(0))
    return sympy.exp(m - relative_to) * _others(without, lambda k: sympy.exp(e.s(k) - m))


@proved("Real.logSumExp_ge_component", SIZES)
def log_sum_exp() -> str:
    """log Σ e^(s_k) ≥ s_j for every j."""
    e = _Example()
    s_y = e.s(e.y)
    rest = _exponentials(e, e.y, sympy.Integer(0))
    _at_least_zero("e^LSE − e^(s_y)", sympy.exp(e.loss + s_y) - sympy.exp(s_y), rest)
    return "LSE is our loss plus s_y, and y is any class; e^LSE − e^(s_y) = Σ_(k≠y) e^(s_k) ≥ 0"


@proved("loss_nonneg_real", SIZES)
def nonnegative() -> str:
    """loss ≥ 0."""
    e = _Example()
    _at_least_zero("e^loss − 1", sympy.exp(e.loss) - 1, _exponentials(e, e.y, e.s(e.y)))
    return "e^loss − 1 = Σ_(k≠y) e^(s_k − s_y) ≥ 0"


@proved("wanted: loss_zero_iff_perfect", TWO)
def zero() -> str:
    """loss > 0, and → 0 exactly where p_y → 1."""
    e = _Example()
    # Of the sum's C − 1 terms each is positive, so the loss is above 0 where C ≥ 2.
    prove_zero("e^loss − 1", sympy.exp(e.loss) - 1, _exponentials(e, e.y, e.s(e.y)))
    prove_zero("e^−loss", sympy.exp(-e.loss), e.p(e.y))
    return "e^loss − 1 = Σ_(k≠y) e^(s_k − s_y), which has a term where C ≥ 2; e^−loss = p_y"


@proved("wanted: loss_unbounded_above", TWO)
def unbounded() -> str:
    """loss has no upper bound."""
    e = _Example()
    k = Index("k", C)  # any class
    s_k, s_y = e.s(k), e.s(e.y)
    excess = sympy.exp(e.loss) - sympy.exp(s_k - s_y)
    _at_least_zero("e^loss − e^(s_k − s_y)", excess, _exponentials(e, k, s_y))
    return "loss ≥ s_k − s_y for every class k, and s_k − s_y may be any number where C ≥ 2"


def _curvature() -> tuple[_Example, Callable[[Expr], Expr], Expr]:
    """``vᵀ H v`` for any ``v``, where ``H v`` is the derivative of our gradient along ``v``."""
    t, direction, e = sympy.Symbol("t", real=True), variable("v", B, C), _Example()
    moved, v = _Example(e.logits + direction * t), partial(direction.at, _B)
    return e, v, _sum(lambda k: v(k) * sympy.diff(moved.d_s(k), t).subs(t, 0))


@proved("wanted: loss_convex", SIZES)
def convex() -> str:
    """loss is convex in the logits."""
    e, v, curvature = _curvature()
    squares = _sum(lambda j: _sum(lambda k: e.p(j) * e.p(k) * (v(j) - v(k)) ** 2 / 2))
    _at_least_zero("vᵀHv", curvature, squares)
    prove_vjp(e.losses, constant(1, B), [(e.logits, e.gradient)])
    return "vᵀHv = ½ Σ_jk p_j p_k (v_j − v_k)² ≥ 0 for every v, H the derivative of our gradient"


@proved("wanted: loss_lipschitz", SIZES)
def lipschitz() -> str:
    """‖p − onehot(y)‖ ≤ √2: loss is √2-Lipschitz."""
    e = _Example()
    squared_norm = _sum(lambda k: e.d_s(k) ** 2)
    pairs = _sum(lambda j: _others(j, lambda k: e.p(j) * e.p(k)))
    _at_least_zero("2 − ‖∇loss‖²", 2 - squared_norm, 2 * e.p(e.y), pairs)
    return "2 − ‖p − onehot(y)‖² = 2 p_y + Σ_(j≠k) p_j p_k ≥ 0"


@proved("wanted: gradient_sum_zero", SIZES)
def gradient_sum() -> str:
    """Σ_k ∂loss/∂s_k = 0."""
    e = _Example()
    prove_zero("Σ ∂loss/∂s_k", _sum(lambda k: e.d_s(k)))
    return "what the backward gives, summed over the classes"


@proved("wanted: gradient_bounded", SIZES)
def gradient_bounded() -> str:
    """−1 ≤ ∂loss/∂s_k ≤ 1."""
    e = _Example()
    k = Index("k", C)
    is_label = KroneckerDelta(k, e.y)
    _at_least_zero("1 − ∂loss/∂s_k", 1 - e.d_s(k), _others(k, lambda j: e.p(j)), is_label)
    _at_least_zero("1 + ∂loss/∂s_k", 1 + e.d_s(k), e.p(k), 1 - is_label)
    return "1 ∓ ∂loss/∂s_k written as sums of terms that are at least 0"


@proved("wanted: gradient_lipschitz", SIZES)
def gradient_lipschitz() -> str:
    """∇loss is ½-Lipschitz in the logits."""
    e, v, curvature = _curvature()
    squared_norm = _sum(lambda k: v(k) ** 2)
    diagonal = _sum(lambda k: 2 * (sympy.Rational(1, 2) - e.p(k)) ** 2 * v(k) ** 2)
    pairs = _sum(lambda j: _others(j, lambda k: e.p(j) * e.p(k) * (v(j) + v(k)) ** 2 / 2))
    _at_least_zero("½‖v‖² − vᵀHv", squared_norm / 2 - curvature, diagonal, pairs)
    return "½‖v‖² − vᵀHv = 2 Σ (½ − p_k)² v_k² + ½ Σ_(j≠k) p_j p_k (v_j + v_k)² ≥ 0, and H ⪰ 0"
