"""Convergence: what LEAN_mnist's convergence axioms say in words, where their conclusions say ``True``.

For all μ, L, α and t the rates are proved from textbook inequalities. Then the optimizer that trains is run on
quadratics whose numbers float64 holds exactly, every outcome of the noise is enumerated, and the bound is checked in
fractions.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import sympy
import torch

from lean_mnist.chainrule import losses
from lean_mnist.nn.update import Optimizer, set_learning_rate
from lean_mnist.training.config import Config, optimizers
from lean_mnist.verification import assumptions as rests_on
from lean_mnist.verification.methods.networks import RationalNetwork
from lean_mnist.verification.methods.proofs import prove_zero
from lean_mnist.verification.methods.sums import Expr
from lean_mnist.verification.model import Method, NotEstablished, Refuted, Statements
from lean_mnist.verification.statements.gradients import LEAN

OBLIGATIONS = Statements("convergence", "Convergence")
PROOF, OPTIMIZER = (
    (rests_on.SYMPY, rests_on.CALCULUS, rests_on.STEP),
    (rests_on.FRACTIONS, rests_on.IEEE, rests_on.CASES, rests_on.TORCH),
)
ALPHA, MU, L, SIGMA2 = sympy.symbols("alpha mu L sigma2", positive=True)
R, G2, INNER, GAP = sympy.symbols("r g2 c gap", real=True)  # ‖θ−θ*‖², ‖∇f‖², ⟨∇f, θ−θ*⟩, f(θ) − f*
T = sympy.Symbol("t", integer=True, nonnegative=True)
# E ‖θ' − θ*‖² of one step θ' = θ − α(∇f + noise), with noise of mean 0 and variance σ².
NEXT = R - 2 * ALPHA * INNER + ALPHA**2 * (G2 + SIGMA2)


@OBLIGATIONS(
    "sgd_converges_strongly_convex",
    "for all μ ≤ L, 0 < α ≤ 2/(μ + L) and t",
    rests_on=(*PROOF, rests_on.STRONG, rests_on.NOISE),
)
def sgd_strongly_convex() -> str:
    """E‖θ_t − θ*‖² ≤ (1 − αμ)^t ‖θ₀ − θ*‖² + ασ²/μ."""
    slack = INNER - MU * L / (MU + L) * R - G2 / (MU + L)  # at least 0, by assumption, as is the next
    steep = G2 - MU**2 * R
    rest = 2 * ALPHA * slack + ALPHA * (2 / (MU + L) - ALPHA) * steep
    prove_zero("one step", (1 - ALPHA * MU) ** 2 * R + ALPHA**2 * SIGMA2 - NEXT, rest)
    # 0 ≤ 1 − αμ ≤ 1, since at the largest rate it is (L − μ)/(μ + L). So r' ≤ (1 − αμ) r + α²σ², and the bound is
    # carried from t to t + 1.
    prove_zero("1 − αμ", (1 - ALPHA * MU).subs(ALPHA, 2 / (MU + L)), (L - MU) / (MU + L))
    first = sympy.Symbol("r0", nonnegative=True)
    bound = (1 - ALPHA * MU) ** T * first + ALPHA * SIGMA2 / MU
    prove_zero("the induction", (1 - ALPHA * MU) * bound + ALPHA**2 * SIGMA2, bound.subs(T, T + 1))
    prove_zero("the start", bound.subs(T, 0) - first, ALPHA * SIGMA2 / MU)
    return "E r' = (1 − αμ)² r + α²σ² − [terms that are at least 0], then induction on t"


@OBLIGATIONS(f"{LEAN}: Convergence", "for all L, 0 < α ≤ 1/L and t ≥ 1", rests_on=(*PROOF, rests_on.CONVEX))
def gd_convex() -> str:
    """f(θ_t) − f* ≤ ‖θ₀ − θ*‖² / 2αt, which is O(1/t)."""
    after = R - 2 * ALPHA * INNER + ALPHA**2 * G2
    bound = INNER - ALPHA * (1 - ALPHA * L / 2) * G2
    prove_zero("one step", (R - after) / (2 * ALPHA) - bound, ALPHA * (1 - ALPHA * L) * G2 / 2)
    r = sympy.Function("r")

    def telescoped(t: Expr) -> Expr:
        return r(0) - r(t)

    prove_zero("the empty sum", telescoped(sympy.Integer(0)), sympy.Integer(0))
    prove_zero("one more term of the sum", telescoped(T + 1) - telescoped(T), r(T) - r(T + 1))
    return "f(θ') − f* ≤ (r − r') / 2α for α ≤ 1/L; the sum over t steps telescopes, and f does not increase"


@OBLIGATIONS(
    "sgd_converges_convex", "for all L, 0 < α ≤ 1/2L and t ≥ 1", rests_on=(*PROOF, rests_on.CONVEX, rests_on.NOISE)
)
def sgd_convex() -> str:
    """the mean of E f(θ_k) − f* over t steps is O(1/√t)."""
    rest = 2 * ALPHA * (INNER - GAP) + ALPHA**2 * (2 * L * GAP - G2) + ALPHA * GAP * (1 - 2 * ALPHA * L)
    prove_zero("one step", R - NEXT + ALPHA**2 * SIGMA2 - ALPHA * GAP, rest)
    scale, first = sympy.symbols("a r0", positive=True)
    rate = (first / (ALPHA * T) + ALPHA * SIGMA2).subs(ALPHA, scale / sympy.sqrt(T))
    t = sympy.Symbol("t", positive=True)
    if sympy.limit((rate * sympy.sqrt(T)).subs(T, t), t, sympy.oo) != first / scale + scale * SIGMA2:
        raise NotEstablished("the rate was not found to be O(1/√t)")
    return "the mean gap over t steps is at most r₀/(αt) + ασ², which is O(1/√t) for α = a/√t"


@OBLIGATIONS(
    "sgd_finds_stationary_point_nonconvex",
    "for all L, 0 < α ≤ 1/L and T ≥ 1",
    rests_on=(*PROOF, rests_on.SMOOTH, rests_on.NOISE),
)
def sgd_stationary() -> str:
    """min E‖∇f(θ_t)‖² ≤ 2(f(θ₀) − f_min)/(αT) + 2αLσ²."""
    decrease = ALPHA * G2 - ALPHA**2 * L / 2 * (G2 + SIGMA2)
    prove_zero("one step", decrease - (ALPHA / 2 * G2 - ALPHA**2 * L / 2 * SIGMA2), ALPHA * (1 - ALPHA * L) * G2 / 2)
    first, steps = sympy.symbols("gap0 T", positive=True)
    mean = (first + steps * ALPHA**2 * L / 2 * SIGMA2) / (steps * ALPHA / 2)
    prove_zero("the mean", 2 * first / (ALPHA * steps) + 2 * ALPHA * L * SIGMA2 - mean, ALPHA * L * SIGMA2)
    return "the mean of E‖∇f‖² over T steps is at most 2(f₀ − f_min)/(αT) + αLσ², half the noise term they allow"


def _optimizer(parameter: torch.nn.Parameter, lr: float) -> Optimizer:
    """The optimizer that ``python -m lean_mnist.train`` builds for plain SGD."""
    config = Config(optimizer="sgd", lr=lr, momentum=0.0, nesterov=False, weight_decay=0.0)
    return optimizers.build_optimizer(config, [parameter])


def _vector(*values: float) -> Any:
    return np.array([Fraction(value) for value in values], dtype=object)


def _iterates(curvature: Any, rate: Fraction, start: Any, noises: Any, steps: int) -> list[Any]:
    """``θ_0 … θ_steps`` of the optimizer on ``f(θ) = ½ Σ a_i θ_i²``, a row for every sequence of ``noises``.

    All numbers must be halves, quarters, …: float64 holds them exactly. Raises ``Refuted`` unless each iterate equals
    that of the exact recursion.
    """
    paths = np.array(list(itertools.product(noises, repeat=steps)), dtype=object)
    iterates = [np.array([start] * len(paths), dtype=object)]
    theta = torch.nn.Parameter(torch.tensor(iterates[0].astype(float)))
    optimizer = _optimizer(theta, float(rate))
    for step in range(steps):
        noise = paths[:, step]
        theta.grad = torch.tensor(curvature.astype(float)) * theta.detach() + torch.tensor(noise.astype(float))
        optimizer.step()
        iterates.append(iterates[-1] - rate * (curvature * iterates[-1] + noise))
        for row, right in zip(theta.tolist(), iterates[-1].tolist(), strict=True):
            if row != right:
                raise Refuted("the optimizer's step is not θ − αg", f"{row} instead of {right} after {step + 1} steps")
    return iterates


# θ* = 0, μ = min a, L = max a.
CURVATURES = (_vector(0.5, 4), _vector(1, 1))
RATES = (Fraction(1, 8), Fraction(1, 4))
NOISES = [_vector(*signs) for signs in itertools.product((-0.5, 0.5), repeat=2)]
SGD_STEPS = 4
START = _vector(1.5, -1.25)


@OBLIGATIONS(
    "sgd_converges_strongly_convex",
    f"on {len(CURVATURES) * len(RATES)} quadratics in 2 variables, t ≤ {SGD_STEPS}, all {len(NOISES) ** SGD_STEPS} "
    "sequences of noise",
    Method.EXACT,
    rests_on=OPTIMIZER,
)
def sgd_enumerated() -> str:
    """the same for the optimizer that trains, on quadratics."""
    tightest = Fraction(10**9)
    variance = (np.array(NOISES) ** 2).sum() / len(NOISES)
    for curvature, rate in itertools.product(CURVATURES, RATES):
        mu = min(curvature)
        for t, theta in enumerate(_iterates(curvature, rate, START, NOISES, SGD_STEPS)):
            mean = (theta**2).sum() / len(theta)
            bound = (1 - rate * mu) ** t * (START**2).sum() + rate * variance / mu
            if mean > bound:
                raise Refuted("the bound is exceeded", f"{mean} > {bound}, a = {curvature}, α = {rate}, t = {t}")
            tightest = min(tightest, bound / mean)
    return (
        f"the optimizer's iterates equal the exact recursion with ==; bound / value is at least {float(tightest):.3f}"
    )


GD_CURVATURES, GD_START = _vector(0, 0.125, 0.5, 1), _vector(1, 2, -1, 3)
GD_STEPS = 12


@OBLIGATIONS(f"{LEAN}: Convergence", f"on 1 quadratic in 4 variables, t ≤ {GD_STEPS}", Method.EXACT, rests_on=OPTIMIZER)
def gd_quadratic() -> str:
    """the same for the optimizer that trains, on a quadratic with a flat direction."""
    rate, no_noise = Fraction(1), 0 * GD_START  # the rate is 1/L
    distance2 = (GD_START[1:] ** 2).sum()  # to the nearest minimizer: the first coordinate is free
    for t, (theta,) in enumerate(_iterates(GD_CURVATURES, rate, GD_START, [no_noise], GD_STEPS)):
        gap = (GD_CURVATURES * theta**2).sum() / 2
        if t and gap > distance2 / (2 * rate * t):
            raise Refuted("the bound is exceeded", f"f − f* = {gap} > {distance2 / (2 * rate * t)} at t = {t}")
    return "f(θ_t) − f* ≤ ‖θ₀ − θ*‖² / 2αt with α = 1/L; the iterates equal the exact recursion with =="


VARIANCE_EXAMPLES, VARIANCE_BATCHES = 4, (1, 2, 3)


@OBLIGATIONS(
    "batch_size_reduces_variance",
    f"on all batches of b = {', '.join(map(str, VARIANCE_BATCHES))} of {VARIANCE_EXAMPLES} examples, "
    "our gradients of a 2-3-2 ReLU network",
    Method.EXACT,
)
def batch_variance() -> str:
    """the variance of a batch gradient is Var/b."""
    example = RationalNetwork.random(3, (2, 3, 2), "relu", VARIANCE_EXAMPLES)
    m = VARIANCE_EXAMPLES
    full, single = _batch_gradient(example, range(m)), Fraction(0)
    for b in VARIANCE_BATCHES:
        for batches, factor, kind in (
            (itertools.product(range(m), repeat=b), Fraction(1), "with replacement"),
            (itertools.combinations(range(m), b), Fraction(m - b, m - 1), "without replacement"),
        ):
            gradients = [_batch_gradient(example, batch) for batch in batches]
            mean = sum(gradients) / len(gradients)
            if mean.tolist() != full.tolist():
                raise Refuted("the mean over all batches is not the full gradient", f"b = {b}, {kind}")
            variance = sum(((g - full) ** 2).sum() for g in gradients) / len(gradients)
            single = variance if b == 1 else single
            if variance != single / b * factor:
                raise Refuted("the variance is wrong", f"{variance} instead of {single / b * factor}, b = {b}, {kind}")
    return "Var/b exactly with replacement; as the trainer draws, without, it is smaller by (m − b)/(m − 1)"


def _batch_gradient(example: RationalNetwork, rows: Sequence[int]) -> Any:
    """The gradient of the mean loss of some examples in all parameters, as one vector of fractions."""
    chosen = list(rows)
    upstream = losses.mean_backward(example.upstream[chosen], Fraction(1))
    batch = replace(example, x=example.x[chosen], labels=example.labels[chosen], upstream=upstream)
    (_, *parameters) = batch.loss_and_gradients()[1]
    return np.concatenate([gradient.reshape(-1) for _, _, gradient in parameters])


@OBLIGATIONS("one_over_t_plus_one_satisfies_robbins_monro", "for the infinite series", rests_on=(rests_on.SYMPY,))
def robbins_monro() -> str:
    """Σ 1/(t+1) diverges, Σ 1/(t+1)² converges."""
    t = sympy.Symbol("t", integer=True, nonnegative=True)
    rates, squares = (sympy.Sum(1 / (t + 1) ** power, (t, 0, sympy.oo)) for power in (1, 2))
    if rates.is_convergent() is not sympy.false:
        raise NotEstablished("Σ 1/(t+1) was not found to diverge")
    if squares.is_convergent() is not sympy.true or squares.doit() != sympy.pi**2 / 6:
        raise NotEstablished("Σ 1/(t+1)² was not found to converge to π²/6")
    return "Σ 1/(t+1) = ∞ and Σ 1/(t+1)² = π²/6, a statement about numbers and not about code"


AVERAGED = 200


@OBLIGATIONS(f"{LEAN}: Convergence", f"on {AVERAGED} steps of ½(θ − x_t)²", Method.CASES)
def running_mean() -> str:
    """with α_t = 1/(t+1) the optimizer averages its noise away."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(AVERAGED, generator=generator, dtype=torch.float64)
    theta = torch.nn.Parameter(torch.full((1,), 7.0, dtype=torch.float64))
    optimizer = _optimizer(theta, 1.0)
    for t, x in enumerate(data):
        theta.grad = theta.detach() - x  # of ½(θ − x)²
        set_learning_rate(optimizer, 1 / (t + 1))
        optimizer.step()
        difference = abs(float(theta.detach() - data[: t + 1].mean()))
        if not difference <= 1e-12:
            raise Refuted("θ is not the mean of the examples so far", f"off by {difference:.1e} after {t + 1} steps")
    return "θ_t is the mean of x_1 … x_t, whose variance σ²/t tends to 0; equal to within 1e-12"
