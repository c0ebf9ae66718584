"""Audit of a PAC-Bayes step: value and gradients against PyTorch's autograd, in float64.

Nothing of ``chainrule`` is imported. The loss is taken as a function of the weights that is linear about the drawn
ones, with the gradient there of the one independent reference (:mod:`lean_mnist.audit.reference`).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F  # noqa: N812

from lean_mnist.audit.reference import NetworkLoss, magnitudes, reference_gradients
from lean_mnist.crosscheck.comparison import Divergence, compare
from lean_mnist.generalization.pacbayes.posterior import Goal, PosteriorStep
from lean_mnist.nn.step import layers_of

_LOSS = NetworkLoss("relu")


class PosteriorReference(NamedTuple):
    """Objective, bounded losses (B,), and the gradient of every mean, then of every log-scale.

    ``of_loss`` is the derivative of the objective by the mean loss of the examples below the ceiling.
    """

    value: Tensor
    losses: Tensor
    gradients: list[Tensor]
    of_loss: float


def audit_posterior(step: PosteriorStep) -> tuple[Divergence, ...]:
    """Divergences of the last step's objective and bounded losses, and of the gradients in ``.grad``.

    As everywhere, what rounding explains is measured: plain PyTorch computes the same in the precision of the step.
    """
    at = step.last
    exact, plain = (posterior_reference(step, dtype) for dtype in (torch.float64, at.batch[0].dtype))
    # A loss is a difference of logits, and rounded relative to those; a gradient relative to the terms of its sum.
    size = 4 * (1 + float(exact.losses.max()))
    found = [
        compare("objective", at.value, exact.value, plain.value, size),
        compare("losses", at.losses, exact.losses, plain.losses, size * len(exact.losses) ** 0.5),
    ]
    deviations = [
        float((log_scale.detach().exp() * noise).abs().max())
        for log_scale, noise in zip(step.network.log_scales, step.noise.parameters(), strict=True)
    ]
    layers = layers_of(step.drawn)
    terms = magnitudes(_LOSS, layers, *at.batches[0]).gradients if at.batches else [0.0 for _ in deviations]
    sizes = [*terms, *(term * deviation for term, deviation in zip(terms, deviations, strict=True))]
    named, references = step.network.posterior.named_parameters(), zip(exact.gradients, plain.gradients, strict=True)
    for (name, parameter), (reference, baseline), size in zip(named, references, sizes, strict=True):
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        found.append(compare(name, ours, reference, baseline, exact.of_loss * size))
    return tuple(found)


@torch.enable_grad()
def posterior_reference(step: PosteriorStep, dtype: torch.dtype) -> PosteriorReference:
    """The reference for the last step, in ``dtype``.

    Of the step itself it takes which examples are below the ceiling, and on which side of a kink a unit was where
    rounding leaves that open.
    """
    network, at = step.network, step.last
    goal, (x_BD, labels_B) = at.goal, at.batch
    means, log_scales = (
        [p.detach().to(dtype).requires_grad_() for p in group] for group in (network.means, network.log_scales)
    )
    by_risk = goal.objective == "risk"  # by which the log-scales are not trained
    scales = [(log_scale.detach() if by_risk else log_scale).exp() for log_scale in log_scales]
    noise = [e.detach().to(dtype) for e in step.noise.parameters()]
    weights = [m + s * e for m, s, e in zip(means, scales, noise, strict=True)]
    layers = [(w.detach(), b.detach()) for w, b in zip(weights[::2], weights[1::2], strict=True)]

    logits = reference_gradients(_LOSS, layers, x_BD, labels_B, dtype=dtype).logits
    losses = F.cross_entropy(logits, labels_B, reduction="none").clamp(max=goal.ceiling)
    loss = torch.zeros((), dtype=dtype, requires_grad=True)
    if at.batches:
        sides = [z > 0 for z in at.result.tapes[0].pre_activations[:-1]]
        there = reference_gradients(_LOSS, layers, *at.batches[0], dtype=dtype, sides=sides)
        linear = [((w - w.detach()) * g).sum() for w, g in zip(weights, there.gradients, strict=True)]
        loss = there.loss + torch.stack(linear).sum()
    value = loss
    if not by_risk:
        below, examples = int(at.below.sum()), len(labels_B)
        risk = (below * loss / goal.ceiling + examples - below) / examples
        prior_scale = network.prior_log_scale.to(dtype).exp()
        parts = [
            kl_divergence(Normal(mean, scale), Normal(prior_mean.to(dtype), prior_scale)).sum()
            for mean, scale, prior_mean in zip(means, scales, network.prior_means, strict=True)
        ]
        value = _bound(goal, risk, torch.stack(parts).sum())
    of_loss, *gradients = torch.autograd.grad(value, [loss, *means, *log_scales], materialize_grads=True)
    return PosteriorReference(value.detach(), losses.detach(), gradients, float(of_loss))


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
