"""Is the gradient of this PAC-Bayes step the gradient? Asked of PyTorch's autograd, in float64, before it is applied.

The reference is written independently: nothing of it is imported from ``chainrule`` or ``nn``. As everywhere, what
rounding explains is measured: plain PyTorch computes the same gradients in the precision of the step, and ours may be
at most ten times as far from the reference (:mod:`lean_mnist.crosscheck.comparison`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F  # noqa: N812

from lean_mnist.crosscheck.comparison import Divergence, compare
from lean_mnist.errors import GradientMismatch

if TYPE_CHECKING:
    from lean_mnist.generalization.pacbayes.network import GaussianMLP


class Goal(NamedTuple):
    """What a step lowers: the mean cross-entropy, or a PAC-Bayes bound on the bounded one."""

    objective: str  # "risk", or one of chainrule.pac_bayes.OBJECTIVES
    ceiling: float = math.inf  # of an example's cross-entropy, ln(1/p_min)
    examples: int = 1  # m
    cost: float = 0.0  # ln(2√m/δ)
    divergence_weight: float = 1.0


def audit_step(
    network: GaussianMLP, goal: Goal, x_BD: Tensor, labels_B: Tensor, noise: Sequence[Tensor], value: Tensor, step: int
) -> Divergence:
    """Compare ``value`` and the gradients now in ``.grad`` with the reference; return the largest divergence.

    Raises ``GradientMismatch``, naming the tensor, where one is farther off than rounding explains.
    """
    exact, plain = (_reference(network, goal, x_BD, labels_B, noise, dtype) for dtype in (torch.float64, x_BD.dtype))
    names = [f"{kind}.{name}" for kind in ("mean", "log_scale") for name in network.names]
    found = [compare("objective", value.detach(), exact[0], plain[0], 4 * goal_scale(exact[0]))]
    parameters = [*network.means, *network.log_scales]
    for name, parameter, reference, baseline in zip(names, parameters, exact[1:], plain[1:], strict=True):
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if parameter.requires_grad:
            found.append(compare(name, ours, reference, baseline))
    wrong = [divergence for divergence in found if not divergence.passed]
    if wrong:
        raise GradientMismatch(f"step {step}: {wrong[0]}")
    return max(found[1:], key=lambda divergence: divergence.share)


def goal_scale(value: Tensor) -> float:
    """The size of the terms of an objective: a loss is a difference of logits, so it is rounded relative to those."""
    return 1 + abs(float(value))


def _reference(
    network: GaussianMLP, goal: Goal, x_BD: Tensor, labels_B: Tensor, noise: Sequence[Tensor], dtype: torch.dtype
) -> list[Tensor]:
    """The objective and its gradients by every mean and log-scale, by autograd in ``dtype``."""
    means, log_scales = (
        [parameter.detach().to(dtype).requires_grad_() for parameter in group]
        for group in (network.means, network.log_scales)
    )
    with torch.enable_grad():
        weights = [m + s.exp() * e.to(dtype) for m, s, e in zip(means, log_scales, noise, strict=True)]
        h = x_BD.detach().to(dtype)
        for layer in range(0, len(weights), 2):
            h = F.linear(h if layer == 0 else torch.relu(h), weights[layer], weights[layer + 1])
        losses = F.cross_entropy(h, labels_B, reduction="none")
        if goal.objective == "risk":
            value = losses.mean()
        else:
            risk = (losses.clamp(max=goal.ceiling) / goal.ceiling).mean()
            value = _bound(goal, risk, _divergence(network, means, log_scales, dtype))
        gradients = torch.autograd.grad(value, [*means, *log_scales], materialize_grads=True)
    return [value.detach(), *gradients]


def _divergence(
    network: GaussianMLP, means: Sequence[Tensor], log_scales: Sequence[Tensor], dtype: torch.dtype
) -> Tensor:
    total = torch.zeros((), dtype=dtype)
    prior_scale = network.prior_log_scale.to(dtype).exp()
    for mean, log_scale, prior_mean in zip(means, log_scales, network.prior_means, strict=True):
        total = total + kl_divergence(Normal(mean, log_scale.exp()), Normal(prior_mean.to(dtype), prior_scale)).sum()
    return total


def _bound(goal: Goal, risk: Tensor, divergence: Tensor) -> Tensor:
    m, paid = goal.examples, divergence * goal.divergence_weight + goal.cost
    if goal.objective == "quadratic":
        c = paid / (2 * m)
        return risk + 2 * c + 2 * torch.sqrt(c * (risk + c))
    if goal.objective == "lambda":
        chosen = 2 / (torch.sqrt(1 + 2 * m * risk / paid) + 1)
        return (m * chosen * risk + paid) / (m * chosen * (1 - chosen / 2))
    assert goal.objective == "classic"
    return risk + torch.sqrt(paid / (2 * m))
