"""Training a Gaussian over networks: its prior by the risk alone, its posterior by a PAC-Bayes bound.

Both by the same step, whose gradients are those of :mod:`lean_mnist.chainrule` and are compared with autograd's before
they are applied, at the first step and every ``check_every`` steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from lean_mnist.chainrule.losses import softmax_cross_entropy
from lean_mnist.chainrule.pac_bayes import OBJECTIVES, bounded, confidence_cost
from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.data.batches import Batches
from lean_mnist.data.seeding import generator_for
from lean_mnist.errors import ConfigError, HealthError
from lean_mnist.generalization.pacbayes.audit import Goal, audit_step
from lean_mnist.generalization.pacbayes.network import GaussianMLP
from lean_mnist.nn import gaussian


@dataclass(frozen=True)
class Recipe:
    """How one of the two is trained: SGD with Nesterov momentum and a cosine schedule after a twentieth of warm-up."""

    objective: str
    """``risk`` (the mean cross-entropy), ``quadratic``, ``lambda`` or ``classic`` (``chainrule.pac_bayes``)."""
    epochs: int
    lr: float
    momentum: float = 0.9
    p_min: float = 1e-5
    """Probabilities below it count as it, so that an example's loss is at most ln(1/p_min); not for ``risk``."""
    divergence_weight: float = 1.0
    """Of KL in the objective; the bound holds for whatever posterior comes out."""
    delta: float = 0.025
    """Of the bound that is lowered; the certified one states its own."""
    check_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective != "risk" and self.objective not in OBJECTIVES:
            raise ConfigError(f"objective: expected risk or one of {', '.join(OBJECTIVES)}, found {self.objective!r}")
        for name, value, holds, expected in (
            ("epochs", self.epochs, self.epochs >= 1, "at least 1"),
            ("lr", self.lr, 0 < self.lr < math.inf, "a number above 0"),
            ("p-min", self.p_min, 0 < self.p_min < 1, "a probability between 0 and 1"),
            ("divergence-weight", self.divergence_weight, 0 < self.divergence_weight < math.inf, "a number above 0"),
            ("check-every", self.check_every, self.check_every >= 1, "at least 1"),
        ):
            if not holds:
                raise ConfigError(f"{name}: expected {expected}, found {value}")


class Epoch(NamedTuple):
    """What an epoch showed: means over its steps, and the last step's divergence KL."""

    epoch: int
    objective: float
    risk: float
    divergence: float


class Trained(NamedTuple):
    """What a training leaves behind besides the network: its epochs, how many audits, and the largest divergence."""

    epochs: list[Epoch]
    audits: int
    largest: Divergence | None


def train(
    network: GaussianMLP, batches: Batches, recipe: Recipe, report: Callable[[Epoch], None] | None = None
) -> Trained:
    """Train ``network`` in place by ``recipe``; one draw of the weights a batch.

    By ``risk`` only the means are trained, at the prior's noise. The same seed gives the same network on the same
    machine. Raises ``GradientMismatch`` before a wrong gradient is applied, ``HealthError`` if the objective stops
    being finite.
    """
    by_risk, examples = recipe.objective == "risk", len(batches.split)
    for log_scale in network.log_scales:
        log_scale.requires_grad_(not by_risk)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    total = recipe.epochs * batches.steps_per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _shape(step, total))
    goal = Goal(
        recipe.objective,
        math.inf if by_risk else math.log(1 / recipe.p_min),
        examples,
        confidence_cost(examples, recipe.delta),
        recipe.divergence_weight,
    )
    loss = softmax_cross_entropy() if by_risk else bounded(softmax_cross_entropy(), goal.ceiling)
    generator = generator_for(recipe.seed, f"noise of {recipe.objective}")
    epochs: list[Epoch] = []
    largest: Divergence | None = None
    step = audits = 0
    for epoch in range(recipe.epochs):
        sums = torch.zeros(2, dtype=torch.float64)
        divergence = torch.zeros(())
        for x_BD, labels_B in batches.epoch(epoch):
            noise = network.noise(generator)
            value = risk = network.loss(x_BD, labels_B, noise, loss)
            if not by_risk:
                divergence = network.divergence()
                weighted = divergence * recipe.divergence_weight
                value = gaussian.objective(recipe.objective, risk, weighted, examples, goal.cost)
            optimizer.zero_grad()
            value.backward()
            norms = [parameter.grad.norm() for parameter in parameters if parameter.grad is not None]
            if not torch.isfinite(torch.stack([value.detach(), *norms])).all():
                found_value = f"{value.item():g}, gradients up to {max(norm.item() for norm in norms):g}"
                raise HealthError(f"step {step + 1}: objective {found_value}, expected finite numbers; lower lr")
            if step % recipe.check_every == 0:
                found = audit_step(network, goal, x_BD, labels_B, noise, value, step + 1)
                audits, largest = audits + 1, max(filter(None, (largest, found)), key=lambda d: d.share)
            optimizer.step()
            schedule.step()
            sums += torch.stack([value.detach(), risk.detach()]).double()
            step += 1
        mean = sums / batches.steps_per_epoch
        epochs.append(Epoch(epoch + 1, float(mean[0]), float(mean[1]), float(divergence.detach())))
        if report is not None:
            report(epochs[-1])
    return Trained(epochs, audits, largest)


def _shape(step: int, total: int) -> float:
    """Linear warm-up over a twentieth of the steps, then a cosine down to 0."""
    warm = max(1, total // 20)
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))) / 2
