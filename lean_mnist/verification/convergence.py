"""Convergence: what LEAN_mnist's convergence axioms say in words, where their conclusions say ``True``.

For all μ, L, α and t the rates are proved from textbook inequalities. Then the optimizer that trains is run on
quadratics whose numbers float64 holds exactly, every outcome of the noise is enumerated, and the bound is checked in
fractions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import sympy
import torch

from lean_mnist.chainrule import losses, mlp
from lean_mnist.chainrule.activations import activation_named
from lean_mnist.nn.update import Optimizer, set_learning_rate
from lean_mnist.training.config import Config, optimizers
from lean_mnist.verification import assumptions as rests_on
from lean_mnist.verification.exact import Network
from lean_mnist.verification.gradients import LEAN
from lean_mnist.verification.model import How, NotEstablished, Obligation, Refuted

ALPHA, MU, L, SIGMA2 = sympy.symbols("alpha mu L sigma2", positive=True)
R, G2, INNER, GAP = sympy.symbols("r g2 c gap", real=True)  # ‖θ−θ*‖², ‖∇f‖², ⟨∇f, θ−θ*⟩, f(θ) − f*
T = sympy.Symbol("t", integer=True, nonnegative=True)
# E ‖θ' − θ*‖² of one step θ' = θ − α(∇f + noise), with noise of mean 0 and variance σ².
NEXT = R - 2 * ALPHA * INNER + ALPHA**2 * (G2 + SIGMA2)


def _identity(what: str, one: sympy.Expr, other: sympy.Expr) -> None:
    if sympy.simplify(one - other) != 0:
        raise NotEstablished(f"{what}: the two sides were not shown to be equal")


def _strongly_convex() -> str:
    slack = INNER - MU * L / (MU + L) * R - G2 / (MU + L)  # at least 0, by assumption, as is the next
    steep = G2 - MU**2 * R
    rest = 2 * ALPHA * slack + ALPHA * (2 / (MU + L) - ALPHA) * steep
    _identity("one step", (1 - ALPHA * MU) ** 2 * R + ALPHA**2 * SIGMA2 - NEXT, rest)
    # 0 ≤ 1 − αμ ≤ 1, since at the largest rate it is (L − μ)/(μ + L). So r' ≤ (1 − αμ) r + α²σ², and the bound is
    # carried from t to t + 1.
    _identity("1 − αμ", (1 - ALPHA * MU).subs(ALPHA, 2 / (MU + L)), (L - MU) / (MU + L))
    first = sympy.Symbol("r0", nonnegative=True)
    bound = (1 - ALPHA * MU) ** T * first + ALPHA * SIGMA2 / MU
    _identity("the induction", (1 - ALPHA * MU) * bound + ALPHA**2 * SIGMA2, bound.subs(T, T + 1))
    _identity("the start", bound.subs(T, 0) - first, ALPHA * SIGMA2 / MU)
    return "E r' = (1 − αμ)² r + α²σ² − [terms that are at least 0], then induction on t"


def _convex() -> str:
    # One step without noise: f(θ') ≤ f(θ) − α(1 − αL/2)‖∇f‖² and f(θ) − f* ≤ ⟨∇f, θ−θ*⟩.
    after = R - 2 * ALPHA * INNER + ALPHA**2 * G2
    bound = INNER - ALPHA * (1 - ALPHA * L / 2) * G2
    _identity("one step", (R - after) / (2 * ALPHA) - bound, ALPHA * (1 - ALPHA * L) * G2 / 2)
    r = sympy.Function("r")

    def telescoped(t: sympy.Expr) -> sympy.Expr:
        return r(0) - r(t)

    _identity("the empty sum", telescoped(sympy.Integer(0)), sympy.Integer(0))
    _identity("one more term of the sum", telescoped(T + 1) - telescoped(T), r(T) - r(T + 1))
    return "f(θ') − f* ≤ (r − r') / 2α for α ≤ 1/L; the sum over t steps telescopes, and f does not increase"


def _convex_sgd() -> str:
    # ⟨∇f, θ−θ*⟩ ≥ gap and ‖∇f‖² ≤ 2L gap: for α ≤ 1/2L, α gap ≤ r − E r' + α²σ².
    rest = 2 * ALPHA * (INNER - GAP) + ALPHA**2 * (2 * L * GAP - G2) + ALPHA * GAP * (1 - 2 * ALPHA * L)
    _identity("one step", R - NEXT + ALPHA**2 * SIGMA2 - ALPHA * GAP, rest)
    scale, first = sympy.symbols("a r0", positive=True)
    rate = (first / (ALPHA * T) + ALPHA * SIGMA2).subs(ALPHA, scale / sympy.sqrt(T))
    t = sympy.Symbol("t", positive=True)
    if sympy.limit((rate * sympy.sqrt(T)).subs(T, t), t, sympy.oo) != first / scale + scale * SIGMA2:
        raise NotEstablished("the rate was not found to be O(1/√t)")
    return "the mean gap over t steps is at most r₀/(αt) + ασ², which is O(1/√t) for α = a/√t"


def _stationary() -> str:
    # f(θ') ≤ f(θ) − α⟨∇f, g⟩ + α²L/2 ‖g‖² in expectation over g = ∇f + noise.
    decrease = ALPHA * G2 - ALPHA**2 * L / 2 * (G2 + SIGMA2)
    _identity("one step", decrease - (ALPHA / 2 * G2 - ALPHA**2 * L / 2 * SIGMA2), ALPHA * (1 - ALPHA * L) * G2 / 2)
    first, steps = sympy.symbols("gap0 T", positive=True)
    mean = (first + steps * ALPHA**2 * L / 2 * SIGMA2) / (steps * ALPHA / 2)
    _identity("the mean", 2 * first / (ALPHA * steps) + 2 * ALPHA * L * SIGMA2 - mean, ALPHA * L * SIGMA2)
    return "the mean of E‖∇f‖² over T steps is at most 2(f₀ − f_min)/(αT) + αLσ², half the noise term they allow"


def _optimizer(parameter: torch.nn.Parameter, lr: float) -> Optimizer:
    """The optimizer that ``python -m lean_mnist.train`` builds for plain SGD."""
    config = Config(optimizer="sgd", lr=lr, momentum=0.0, nesterov=False, weight_decay=0.0)
    return optimizers.build_optimizer(config, [parameter])


Vector = tuple[Fraction, ...]
# f(θ) = ½ Σ a_i θ_i², so θ* = 0, μ = min a, L = max a. All numbers are halves, quarters, …: float64 holds them exactly.
CURVATURES: tuple[Vector, ...] = (
    (Fraction(1, 2), Fraction(4)),
    (Fraction(1), Fraction(1)),
)
RATES = (Fraction(1, 8), Fraction(1, 4))
NOISES: tuple[Vector, ...] = tuple(itertools.product((Fraction(-1, 2), Fraction(1, 2)), repeat=2))
SGD_STEPS = 4
START: Vector = (Fraction(3, 2), Fraction(-5, 4))


def _run_sgd(curvature: Vector, rate: Fraction, steps: int, noises: Sequence[Vector]) -> list[torch.Tensor]:
    """``θ_0 … θ_steps`` for every sequence of noises at once: ``(paths, 2)``, one optimizer for them all."""
    paths = list(itertools.product(range(len(noises)), repeat=steps))
    table = torch.tensor([[float(value) for value in noise] for noise in noises], dtype=torch.float64)
    start = torch.tensor([float(value) for value in START], dtype=torch.float64)
    theta = torch.nn.Parameter(start.expand(len(paths), len(START)).clone())
    a = torch.tensor([float(value) for value in curvature], dtype=torch.float64)
    optimizer, iterates = _optimizer(theta, float(rate)), [theta.detach().clone()]
    for step in range(steps):
        chosen = torch.tensor([path[step] for path in paths])
        theta.grad = a * theta.detach() + table[chosen]
        optimizer.step()
        iterates.append(theta.detach().clone())
    return iterates


def _exact_path(curvature: Vector, rate: Fraction, noises: Sequence[Vector]) -> list[Vector]:
    theta, path = START, [START]
    for noise in noises:
        gradient = (a * x + e for a, x, e in zip(curvature, theta, noise, strict=True))
        theta = tuple(x - rate * g for x, g in zip(theta, gradient, strict=True))
        path.append(theta)
    return path


def _norm2(v: Sequence[Fraction]) -> Fraction:
    return sum((x * x for x in v), Fraction(0))


def _sgd_enumerated() -> str:
    tightest = Fraction(10**9)
    variance = sum(map(_norm2, NOISES), Fraction(0)) / len(NOISES)
    for curvature, rate in itertools.product(CURVATURES, RATES):
        mu = min(curvature)
        iterates = _run_sgd(curvature, rate, SGD_STEPS, NOISES)
        exact = [_exact_path(curvature, rate, path) for path in itertools.product(NOISES, repeat=SGD_STEPS)]
        for t, theta in enumerate(iterates):
            found = [tuple(map(Fraction, row)) for row in theta.tolist()]
            for row, path in zip(found, exact, strict=True):
                if row != path[t]:
                    raise Refuted("the optimizer's step is not θ − αg", f"{row} instead of {path[t]} after {t} steps")
            mean = sum(map(_norm2, found), Fraction(0)) / len(found)
            bound = (1 - rate * mu) ** t * _norm2(START) + rate * variance / mu
            if mean > bound:
                raise Refuted("the bound is exceeded", f"{mean} > {bound}, a = {curvature}, α = {rate}, t = {t}")
            tightest = min(tightest, bound / mean)
    return (
        f"the optimizer's iterates equal the exact recursion with ==; bound / value is at least {float(tightest):.3f}"
    )


GD_CURVATURES: Vector = (Fraction(0), Fraction(1, 8), Fraction(1, 2), Fraction(1))
GD_STEPS = 12


def _gd_quadratic() -> str:
    rate = Fraction(1)  # 1/L
    start: Vector = (Fraction(1), Fraction(2), Fraction(-1), Fraction(3))
    theta = torch.nn.Parameter(torch.tensor([float(x) for x in start], dtype=torch.float64))
    a = torch.tensor([float(x) for x in GD_CURVATURES], dtype=torch.float64)
    optimizer, exact = _optimizer(theta, float(rate)), start
    distance2 = _norm2(start[1:])  # to the nearest minimizer: the first coordinate is free
    for t in range(1, GD_STEPS + 1):
        theta.grad = a * theta.detach()
        optimizer.step()
        exact = tuple(x - rate * c * x for c, x in zip(GD_CURVATURES, exact, strict=True))
        found = tuple(map(Fraction, theta.tolist()))
        if found != exact:
            raise Refuted("the optimizer's step is not θ − α∇f", f"{found} instead of {exact} after {t} steps")
        gap = sum((c * x * x / 2 for c, x in zip(GD_CURVATURES, found, strict=True)), Fraction(0))
        if gap > distance2 / (2 * rate * t):
            raise Refuted("the bound is exceeded", f"f − f* = {gap} > {distance2 / (2 * rate * t)} at t = {t}")
    return "f(θ_t) − f* ≤ ‖θ₀ − θ*‖² / 2αt with α = 1/L; the iterates equal the exact recursion with =="


VARIANCE_EXAMPLES, VARIANCE_BATCHES = 4, (1, 2, 3)


def _batch_variance() -> str:
    example = Network.random(3, (2, 3, 2), "relu", VARIANCE_EXAMPLES)
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
            variance = sum((((g - full) ** 2).sum() for g in gradients), Fraction(0)) / len(gradients)
            single = variance if b == 1 else single
            if variance != single / b * factor:
                raise Refuted("the variance is wrong", f"{variance} instead of {single / b * factor}, b = {b}, {kind}")
    return "Var/b exactly with replacement; as the trainer draws, without, it is smaller by (m − b)/(m − 1)"


def _batch_gradient(example: Network, rows: Sequence[int]) -> Any:
    """The gradient of the mean loss of some examples in all parameters, as one vector of fractions."""
    chosen, loss, activation = list(rows), losses.squared_error(), activation_named(example.activation)
    x, labels = example.x[chosen], example.labels[chosen]
    loss_B, tape = mlp.mlp_loss_forward(x, labels, example.layers, activation, loss)
    upstream = losses.mean_backward(loss_B, Fraction(1))
    found = mlp.mlp_loss_backward(tape, example.layers, activation, loss, upstream)
    flat = [gradient for layer in found.layers for gradient in layer if gradient is not None]
    return np.concatenate([gradient.reshape(-1) for gradient in flat])


def _robbins_monro() -> str:
    t = sympy.Symbol("t", integer=True, nonnegative=True)
    if sympy.Sum(1 / (t + 1), (t, 0, sympy.oo)).is_convergent() is not sympy.false:
        raise NotEstablished("Σ 1/(t+1) was not found to diverge")
    if sympy.Sum(1 / (t + 1) ** 2, (t, 0, sympy.oo)).is_convergent() is not sympy.true:
        raise NotEstablished("Σ 1/(t+1)² was not found to converge")
    if sympy.summation(1 / (t + 1) ** 2, (t, 0, sympy.oo)) != sympy.pi**2 / 6:
        raise NotEstablished("Σ 1/(t+1)² was not found to be π²/6")
    return "Σ 1/(t+1) = ∞ and Σ 1/(t+1)² = π²/6, a statement about numbers and not about code"


AVERAGED = 200


def _running_mean() -> str:
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


def obligations() -> list[Obligation]:
    """The obligations of this module, in the order of the table."""
    symbolic, exact = (
        (rests_on.SYMPY, rests_on.CALCULUS, rests_on.STEP),
        (rests_on.FRACTIONS, rests_on.IEEE, rests_on.CASES),
    )
    paths = len(NOISES) ** SGD_STEPS
    rules: list[tuple[str, str, str, How, str, tuple[str, ...], Callable[[], str]]] = [
        ("sgd-strongly-convex", "E‖θ_t − θ*‖² ≤ (1 − αμ)^t ‖θ₀ − θ*‖² + ασ²/μ", "sgd_converges_strongly_convex",
         "symbolic", "for all μ ≤ L, 0 < α ≤ 2/(μ + L) and t", (*symbolic, rests_on.STRONG, rests_on.NOISE),
         _strongly_convex),
        ("sgd-enumerated", "the same for the optimizer that trains, on quadratics", "sgd_converges_strongly_convex",
         "exact rational", f"on {len(CURVATURES) * len(RATES)} quadratics in 2 variables, t ≤ {SGD_STEPS}, all {paths} "
         "sequences of noise", (*exact, rests_on.TORCH), _sgd_enumerated),
        ("gd-convex", "f(θ_t) − f* ≤ ‖θ₀ − θ*‖² / 2αt, which is O(1/t)", f"{LEAN}: Convergence", "symbolic",
         "for all L, 0 < α ≤ 1/L and t ≥ 1", (*symbolic, rests_on.CONVEX), _convex),
        ("gd-quadratic", "the same for the optimizer that trains, on a quadratic with a flat direction",
         f"{LEAN}: Convergence", "exact rational", f"on 1 quadratic in 4 variables, t ≤ {GD_STEPS}",
         (*exact, rests_on.TORCH), _gd_quadratic),
        ("sgd-convex", "the mean of E f(θ_k) − f* over t steps is O(1/√t)", "sgd_converges_convex", "symbolic",
         "for all L, 0 < α ≤ 1/2L and t ≥ 1", (*symbolic, rests_on.CONVEX, rests_on.NOISE), _convex_sgd),
        ("sgd-stationary", "min E‖∇f(θ_t)‖² ≤ 2(f(θ₀) − f_min)/(αT) + 2αLσ²", "sgd_finds_stationary_point_nonconvex",
         "symbolic", "for all L, 0 < α ≤ 1/L and T ≥ 1", (*symbolic, rests_on.SMOOTH, rests_on.NOISE), _stationary),
        ("batch-variance", "the variance of a batch gradient is Var/b", "batch_size_reduces_variance", "exact rational",
         f"on all batches of b = {', '.join(map(str, VARIANCE_BATCHES))} of {VARIANCE_EXAMPLES} examples, "
         "our gradients of a 2-3-2 ReLU network", (rests_on.FRACTIONS, rests_on.CASES), _batch_variance),
        ("robbins-monro", "Σ 1/(t+1) diverges, Σ 1/(t+1)² converges", "one_over_t_plus_one_satisfies_robbins_monro",
         "symbolic", "for the infinite series", (rests_on.SYMPY,), _robbins_monro),
        ("running-mean", "with α_t = 1/(t+1) the optimizer averages its noise away", f"{LEAN}: Convergence",
         "property test", f"on {AVERAGED} steps of ½(θ − x_t)²", (rests_on.TORCH, rests_on.CASES), _running_mean),
    ]  # fmt: skip
    return [
        Obligation(f"convergence.{name}", statement, source, how, scope, rests, run)
        for name, statement, source, how, scope, rests, run in rules
    ]
