"""PyTorch's face of :mod:`lean_mnist.chainrule.gaussian` and :mod:`~lean_mnist.chainrule.pac_bayes`.

As in :mod:`lean_mnist.nn.functions`, what a forward computed on the way is not used while a graph is being built.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lean_mnist.chainrule import gaussian
from lean_mnist.chainrule.pac_bayes import Objective, objective_named


class SampleFunction(Function):
    """``w = μ + e^ℓ ⊙ ε``; the noise takes no gradient."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_scale: Tensor, noise: Tensor) -> Tensor:
        w, tape = gaussian.sample_forward(mean, log_scale, noise)
        ctx.save_for_backward(log_scale, noise, tape.deviation)
        return w

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        log_scale, noise, deviation = ctx.saved_tensors
        if torch.is_grad_enabled():
            _, (deviation,) = gaussian.sample_forward(torch.zeros_like(log_scale), log_scale, noise)
        return *gaussian.sample_backward(gaussian.SampleTape(deviation), upstream[0]), None


class DivergenceFunction(Function):
    """``KL(N(μ, σ²) ‖ N(μ₀, σ₀²))``, a scalar; the prior takes no gradient."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_scale: Tensor, prior_mean: Tensor, prior_log_scale: Tensor) -> Tensor:
        divergence, tape = gaussian.divergence_forward(mean, log_scale, prior_mean, prior_log_scale)
        ctx.save_for_backward(mean, log_scale, prior_mean, prior_log_scale, *tape)
        return divergence

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, pull, ratio = ctx.saved_tensors
        tape = gaussian.DivergenceTape(pull, ratio)
        if torch.is_grad_enabled():
            _, tape = gaussian.divergence_forward(*inputs)
        return *gaussian.divergence_backward(tape, upstream[0]), None, None


class ObjectiveFunction(Function):
    """A PAC-Bayes bound as a function of risk and divergence."""

    @staticmethod
    def forward(ctx: Any, risk: Tensor, divergence: Tensor, objective: Objective, m: int, cost: float) -> Tensor:
        bound, tape = objective.forward(risk, divergence, m, cost)
        ctx.objective, ctx.m, ctx.cost = objective, m, cost
        ctx.save_for_backward(risk, divergence, *tape)
        return bound

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        risk, divergence, *tape = ctx.saved_tensors
        if torch.is_grad_enabled():
            _, tape = ctx.objective.forward(risk, divergence, ctx.m, ctx.cost)
        return *ctx.objective.backward(tuple(tape), upstream[0]), None, None, None


def sample(mean: Tensor, log_scale: Tensor, noise: Tensor) -> Tensor:
    """``μ + e^ℓ ⊙ ε``: a draw from N(μ, e^{2ℓ}) where the noise is one from N(0, 1); all of one shape."""
    return SampleFunction.apply(mean, log_scale, noise)


def divergence(mean: Tensor, log_scale: Tensor, prior_mean: Tensor, prior_log_scale: Tensor) -> Tensor:
    """``KL(N(μ, e^{2ℓ}) ‖ N(μ₀, e^{2ℓ₀}))`` in nats, a scalar; the prior's may broadcast."""
    return DivergenceFunction.apply(mean, log_scale, prior_mean, prior_log_scale)


def objective(name: str, risk: Tensor, divergence: Tensor, m: int, cost: float) -> Tensor:
    """The bound called ``name`` (``chainrule.pac_bayes``) at a bounded risk and a divergence; ``cost`` ln(2√m/δ)."""
    return ObjectiveFunction.apply(risk, divergence, objective_named(name), m, cost)
