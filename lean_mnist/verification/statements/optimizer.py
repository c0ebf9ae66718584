"""Convergence of the optimizer that trains, on functions whose numbers float64 holds exactly.

Every outcome of the noise is enumerated, and the bounds are checked in fractions, at the largest rate too.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import torch

from lean_mnist.chainrule import losses
from lean_mnist.nn.update import Optimizer, set_learning_rate
from lean_mnist.training.config import Config, optimizers
from lean_mnist.verification import assumptions as rests_on
from lean_mnist.verification.methods.networks import RationalNetwork
from lean_mnist.verification.model import Method, Refuted
from lean_mnist.verification.statements.convergence import CLAIMS, GD, OBLIGATIONS, SGD, SGD_CONVEX, STATIONARY
from lean_mnist.verification.statements.gradients import LEAN

EXACTLY = (rests_on.FRACTIONS, rests_on.IEEE, rests_on.CASES, rests_on.TORCH)


def _optimizer(parameter: torch.nn.Parameter, lr: float) -> Optimizer:
    """The optimizer that ``python -m lean_mnist.train`` builds for plain SGD."""
    config = Config(optimizer="sgd", lr=lr, momentum=0.0, nesterov=False, weight_decay=0.0)
    return optimizers.build_optimizer(config, [parameter])


def _vector(*values: float) -> Any:
    return np.array([Fraction(value) for value in values], dtype=object)


@dataclass(frozen=True)
class Problem:
    """A function to minimise whose gradient is exact in fractions, and what a claim says of the iterates on it.

    Arrays of points are (paths, n). ``measure`` is given the iterates θ₀ … θ_t.
    """

    claim: str
    gradient: Callable[[Any], Any]
    start: Any
    values: dict[str, Any]
    measure: Callable[[list[Any]], Any]


def _iterates(problem: Problem, rate: Fraction, noises: Sequence[Any], steps: int) -> list[Any]:
    """``θ_0 … θ_steps`` of the optimizer that trains, a row for every sequence of ``noises``.

    All numbers must be halves, quarters, …: float64 holds them exactly. Raises ``Refuted`` unless each iterate equals
    that of the exact recursion.
    """
    paths = np.array(list(itertools.product(noises, repeat=steps)), dtype=object)
    iterates = [np.array([problem.start] * len(paths), dtype=object)]
    theta = torch.nn.Parameter(torch.tensor(iterates[0].astype(float)))
    optimizer = _optimizer(theta, float(rate))
    for step in range(steps):
        gradient = problem.gradient(iterates[-1]) + paths[:, step]
        theta.grad = torch.tensor(gradient.astype(float))
        optimizer.step()
        iterates.append(iterates[-1] - rate * gradient)
        for row, right in zip(theta.tolist(), iterates[-1].tolist(), strict=True):
            if row != right:
                raise Refuted("the optimizer's step is not θ − αg", f"{row} instead of {right} after {step + 1} steps")
    return iterates


def _quadratic(claim: str, curvature: Any, start: Any, measure: Callable[[Any, list[Any]], Any]) -> Problem:
    """``f(θ) = ½ Σ a_i θ_i²``: θ* is the nearest minimizer, μ = min a, L = max a."""
    distance2 = (start**2)[curvature > 0].sum()
    values = {"μ": min(curvature), "L": max(curvature), "r₀": distance2}
    return Problem(claim, lambda theta: curvature * theta, start, values, lambda theta: measure(curvature, theta))


def _distance(curvature: Any, iterates: list[Any]) -> Any:
    return (iterates[-1] ** 2).sum() / len(iterates[-1])


def _gap(curvature: Any, iterates: list[Any]) -> Any:
    return (curvature * iterates[-1] ** 2).sum() / 2 / len(iterates[-1])


def _mean_gap(curvature: Any, iterates: list[Any]) -> Any:
    return sum(_gap(curvature, iterates[: k + 1]) for k in range(len(iterates) - 1)) / (len(iterates) - 1)


def _wave(theta: Any) -> Any:
    """A slope that rises and falls by turns: −θ from −1 to 1, θ − 2 from 1 to 3, and so on, of period 4."""
    return abs((theta + 1) % 4 - 2) - 1


def _mean_slope2(iterates: list[Any]) -> Any:
    return sum((_wave(theta) ** 2).sum() / len(theta) for theta in iterates[:-1]) / (len(iterates) - 1)


# Every outcome of the noise. Numbers are such that the largest rate of each claim is a power of two.
NOISES = [_vector(*signs) for signs in itertools.product((-0.5, 0.5), repeat=2)]
WAVE_NOISES = [_vector(-0.5), _vector(0.5)]
START = _vector(1.5, -1.25)
STRONGLY_CONVEX = [_quadratic("strongly convex", _vector(*a), START, _distance) for a in ((1, 3), (1, 1), (0.5, 3.5))]
FLAT = [_quadratic("convex, no noise", _vector(0, 0.125, 0.5, 1), _vector(1, 2, -1, 3), _gap)]
NOISY_FLAT = [_quadratic("convex", _vector(*a), START, _mean_gap) for a in ((0, 1), (0.25, 1))]
# f = 1 − θ²/2 about its maximum at 0; its least value is 0, at 2.
WAVE = [
    Problem("not convex", _wave, _vector(a), {"L": 1, "r₀": 1 - Fraction(a) ** 2 / 2}, _mean_slope2) for a in (0.25, 1)
]


def _enumerate(problems: Sequence[Problem], noises: Sequence[Any], steps: int) -> str:
    tightest = 0.0
    for problem in problems:
        claim = CLAIMS[problem.claim]
        variance = sum((noise**2).sum() for noise in noises) / len(noises)
        for rate in claim.rates(**problem.values):
            iterates = _iterates(problem, rate, noises, steps)
            for t in range(1, steps + 1):
                bound = claim.at(**problem.values, **{"α": rate, "t": t, "σ²": variance})
                found = problem.measure(iterates[: t + 1])
                if found > bound:
                    raise Refuted(
                        "the bound is exceeded", f"{found} > {bound} for {problem.values}, α = {rate}, t = {t}"
                    )
                tightest = max(tightest, float(found / bound))
    return (
        f"the optimizer's iterates equal the exact recursion with ==; the tightest bound is reached to {tightest:.0%}"
    )


def _check_enumerated(name: str, of: str, source: str, problems: Sequence[Problem], noises: Any, steps: int) -> None:
    sequences = f", all {len(noises) ** steps} sequences of noise" if len(noises) > 1 else ""
    scope = f"on {len(problems)} functions, the largest rate and half of it, t ≤ {steps}{sequences}"
    run = partial(_enumerate, problems, noises, steps)
    OBLIGATIONS.add(
        name, f"the bound of {of} holds for the optimizer that trains", source, scope, run, Method.EXACT, EXACTLY
    )


_check_enumerated("sgd-enumerated", "sgd-strongly-convex", SGD, STRONGLY_CONVEX, NOISES, 4)
_check_enumerated("gd-quadratic", "gd-convex", GD, FLAT, [0 * FLAT[0].start], 12)
_check_enumerated("sgd-convex-enumerated", "sgd-convex", SGD_CONVEX, NOISY_FLAT, NOISES, 4)
_check_enumerated("sgd-stationary-enumerated", "sgd-stationary", STATIONARY, WAVE, WAVE_NOISES, 7)


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


AVERAGED = 200


@OBLIGATIONS(f"{LEAN}: Convergence", f"on {AVERAGED} steps of ½(θ − x_t)²", Method.FLOATS)
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
