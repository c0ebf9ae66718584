"""Convergence: what LEAN_mnist's convergence axioms say in words, where their conclusions say ``True``.

A claim is a largest learning rate and a bound. It is derived from textbook inequalities: a potential that falls at
every step, for every rate up to the largest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import sympy

from lean_mnist.verification import assumptions as rests_on
from lean_mnist.verification.methods.proofs import prove_no_negative
from lean_mnist.verification.methods.sums import Expr
from lean_mnist.verification.model import Method, Statements
from lean_mnist.verification.statements.gradients import LEAN

OBLIGATIONS = Statements("convergence", "Convergence")
# Nonnegative: ‖θ−θ*‖² and its start, ‖∇f‖², f(θ) − f*, μ, L − μ, the variance σ², and three slacks of inequalities.
R, R0, G2, GAP, MU, OVER, SIGMA2, E1, E2, S = sympy.symbols("r r₀ g gap μ d σ² e₁ e₂ s", nonnegative=True)
T, ALPHA, L = sympy.Symbol("t", positive=True), sympy.Symbol("α", positive=True), sympy.Symbol("L", positive=True)


@dataclass(frozen=True)
class Claim:
    """Bound after ``t`` steps at any rate 0 < α ≤ ``largest``; ``r₀`` is ‖θ₀ − θ*‖², or f(θ₀) − f_min if not convex."""

    largest: Expr
    bound: Expr

    def in_scope(self, expression: Expr) -> Expr:
        """``expression`` at any rate of the claim, as one of nonnegative symbols: α = largest / (1 + s), L = μ + d."""
        return expression.subs(ALPHA, self.largest / (1 + S)).subs(L, MU + OVER)

    def prove(self, **differences: Expr) -> None:
        """Prove each difference to be at least 0 at any rate of the claim."""
        for what, difference in differences.items():
            prove_no_negative(what.replace("_", " "), self.in_scope(difference))

    def at(self, **values: Any) -> Fraction:
        """The bound for these numbers, exactly."""
        return _number(self.bound, values)

    def rates(self, **values: Any) -> tuple[Fraction, Fraction]:
        """The largest rate for these numbers, and half of it."""
        largest = _number(self.largest, values)
        return largest, largest / 2


def _number(expression: Expr, values: dict[str, Any]) -> Fraction:
    named = {symbol: sympy.Rational(values[symbol.name]) for symbol in expression.free_symbols}
    return Fraction(*expression.subs(named).as_numer_denom())


CLAIMS = {
    "strongly convex": Claim(2 / (MU + L), (1 - ALPHA * MU) ** T * R0 + ALPHA * SIGMA2 / MU),
    "convex, no noise": Claim(1 / L, R0 / (2 * ALPHA * T)),
    "convex": Claim(1 / (2 * L), R0 / (ALPHA * T) + ALPHA * SIGMA2),
    "not convex": Claim(1 / L, 2 * R0 / (ALPHA * T) + ALPHA * L * SIGMA2),
}


def _written(expression: Expr) -> str:
    return str(expression).replace("**", "^").replace("*", "·")


def _derive(
    name: str, claim: str, what: str, source: str, assumed: Sequence[str], steps: Callable[[Claim], dict[str, Expr]]
) -> None:
    """Add the claim about ``what``, derived by ``steps``: differences that are at least 0 at every rate in scope."""

    def run() -> str:
        differences = steps(CLAIMS[claim])
        CLAIMS[claim].prove(**differences)
        return f"at least 0 at every rate in scope: {', '.join(differences).replace('_', ' ')}"

    given = CLAIMS[claim]
    scope = f"for all {'0 < μ ≤ L' if given.bound.has(MU) else 'L > 0'}, 0 < α ≤ {_written(given.largest)} and t ≥ 1"
    rests = (rests_on.SYMPY, rests_on.INDUCTION, rests_on.STEP, *assumed)
    OBLIGATIONS.add(name, f"{what} ≤ {_written(given.bound)}", source, scope, run, Method.DERIVED, rests)


def _next_distance(inner: Expr, g2: Expr) -> Expr:
    """``E ‖θ' − θ*‖²`` of a step ``θ' = θ − α(∇f + noise)``, with ``⟨∇f, θ−θ*⟩`` and ``‖∇f‖²``; the noise has σ²."""
    return R - 2 * ALPHA * inner + ALPHA**2 * (g2 + SIGMA2)


def _strongly_convex(claim: Claim) -> dict[str, Expr]:
    g2 = MU**2 * R + E2
    after = _next_distance(MU * L / (MU + L) * R + g2 / (MU + L) + E1, g2)
    factor = 1 - ALPHA * MU
    rest = claim.bound - factor**T * R0  # what does not shrink
    return {
        "the_factor": factor,
        "one_step": factor * R + ALPHA**2 * SIGMA2 - after,
        "the_induction": rest - factor * rest - ALPHA**2 * SIGMA2,
        "the_start": rest,
    }


def _convex_without_noise(claim: Claim) -> dict[str, Expr]:
    gap = GAP - ALPHA * (1 - ALPHA * L / 2) * G2 - E1  # after the step
    after = _next_distance(GAP + E2, G2).subs(SIGMA2, 0)
    fall = 2 * ALPHA * T * GAP + R - (2 * ALPHA * (T + 1) * gap + after)
    return {"fall_of_2αt(f − f*) + r": fall, "the_conclusion": 2 * ALPHA * T * claim.bound - R0}


def _convex(claim: Claim) -> dict[str, Expr]:
    fall = R + ALPHA**2 * SIGMA2 - _next_distance(GAP + E1, 2 * L * GAP - E2) - ALPHA * GAP
    return {
        "fall_of_r + αΣ(f − f*) − tα²σ²": fall,
        "the_conclusion": ALPHA * T * claim.bound - R0 - T * ALPHA**2 * SIGMA2,
    }


def _not_convex(claim: Claim) -> dict[str, Expr]:
    gap = GAP - ALPHA * G2 + ALPHA**2 * L / 2 * (G2 + SIGMA2) - E1  # after the step
    fall = GAP + ALPHA**2 * L * SIGMA2 / 2 - ALPHA / 2 * G2 - gap
    return {
        "fall_of_f + αΣ‖∇f‖²/2 − tα²Lσ²/2": fall,
        "the_conclusion": ALPHA * T / 2 * claim.bound - R0 - T * ALPHA**2 * L * SIGMA2 / 2,
    }


STRONG, CONVEX, SMOOTH, NOISE = rests_on.STRONG, rests_on.CONVEX, rests_on.SMOOTH, rests_on.NOISE
SGD, GD, SGD_CONVEX = "sgd_converges_strongly_convex", f"{LEAN}: Convergence", "sgd_converges_convex"
STATIONARY = "sgd_finds_stationary_point_nonconvex"
_derive("sgd-strongly-convex", "strongly convex", "E‖θ_t − θ*‖²", SGD, (STRONG, NOISE), _strongly_convex)
_derive("gd-convex", "convex, no noise", "f(θ_t) − f*", GD, (CONVEX,), _convex_without_noise)
_derive("sgd-convex", "convex", "mean of E f(θ_k) − f* over t steps", SGD_CONVEX, (CONVEX, NOISE), _convex)
_derive("sgd-stationary", "not convex", "mean of E‖∇f(θ_k)‖² over t steps", STATIONARY, (SMOOTH, NOISE), _not_convex)


CEILING = 2 - 1 / T  # of Σ_(k ≤ t) 1/k²


@OBLIGATIONS(
    "one_over_t_plus_one_satisfies_robbins_monro",
    "for the infinite series",
    Method.DERIVED,
    rests_on=(rests_on.SYMPY, rests_on.INDUCTION),
)
def robbins_monro() -> str:
    """Σ 1/(t+1) diverges, Σ 1/(t+1)² converges."""
    grows = 1 / (2 * T + 1) + 1 / (2 * T + 2) - 1 / (T + 1)  # with n = t, Σ_(n < k ≤ 2n) 1/k by this
    prove_no_negative("growth of the sum over n < k ≤ 2n", grows)
    prove_no_negative("the ceiling's induction", CEILING.subs(T, T + 1) - CEILING - 1 / (T + 1) ** 2)
    prove_no_negative("the ceiling's start", CEILING.subs(T, 1) - 1)
    return "Σ_(n < k ≤ 2n) 1/k grows with n from 1/2 on, so the sum to 2^j is above j/2; Σ_(k ≤ n) 1/k² ≤ 2 − 1/n"
