"""Gaussian over the weights of a multilayer perceptron, and the gradient of a PAC-Bayes objective by its parameters.

Shapes: ``B`` batch, ``D`` input features, ``P`` parameters of one network.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lean_mnist.chainrule import gaussian
from lean_mnist.chainrule.pac_bayes import OBJECTIVES, bounded_risk_backward, bounded_risk_forward, objective_backward
from lean_mnist.errors import ArgumentError
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.nn.step import Batch, StepResult, put_flat_gradients


class Goal(NamedTuple):
    """Quantity that a step lowers: the mean cross-entropy, or a PAC-Bayes bound on the bounded one."""

    objective: str = "risk"  # or one of chainrule.pac_bayes.OBJECTIVES
    ceiling: float = math.inf  # of an example's cross-entropy, ln(1/p_min)
    examples: int = 1  # m
    cost: float = 0.0  # ln(2√m/δ)
    divergence_weight: float = 1.0


class GaussianMLP(nn.Module):
    """Independent Gaussians ``N(μ, e^{2ℓ})`` over the weights and biases of an MLP with ReLU, and a prior of its form.

    ``posterior["mean"]``, ``posterior["log_scale"]`` and ``prior`` (the prior's means) each have the form of that MLP.
    It starts as its own prior, at the initial weights of ``MLP(sizes, seed=seed)`` with deviation ``prior_scale`` of
    every parameter. Raises ``ArgumentError`` for impossible sizes or scales.
    """

    def __init__(self, sizes: Sequence[int], prior_scale: float, *, seed: int = 0) -> None:
        super().__init__()
        if not 0 < prior_scale < math.inf:
            raise ArgumentError(f"prior_scale: expected a finite number above 0, found {prior_scale}")
        self.sizes, self.prior_scale = tuple(sizes), prior_scale
        self.posterior = nn.ModuleDict({"mean": MLP(sizes, seed=seed), "log_scale": MLP(sizes)})
        self.prior = MLP(sizes).requires_grad_(False)
        self.start_from_prior()

    @property
    def means(self) -> list[nn.Parameter]:
        """μ of weight and bias of each layer in turn."""
        return list(self.posterior["mean"].parameters())

    @property
    def log_scales(self) -> list[nn.Parameter]:
        """ℓ = ln σ, in the order of ``means``."""
        return list(self.posterior["log_scale"].parameters())

    @property
    def prior_means(self) -> list[nn.Parameter]:
        """μ₀, in the order of ``means``."""
        return list(self.prior.parameters())

    @property
    def prior_log_scale(self) -> Tensor:
        """ln σ₀, one number for all parameters."""
        return torch.tensor(math.log(self.prior_scale), dtype=self.means[0].dtype)

    @torch.no_grad()
    def start_from_prior(self) -> None:
        """Make the posterior its own prior: the present means, and ``prior_scale`` of every parameter."""
        for mean, log_scale, prior_mean in zip(self.means, self.log_scales, self.prior_means, strict=True):
            prior_mean.copy_(mean)
            log_scale.fill_(math.log(self.prior_scale))

    @torch.no_grad()
    def divergence(self) -> Tensor:
        """``KL(posterior ‖ prior)`` in nats, a scalar; of another prior mean than the present one nothing is known."""
        triples = zip(self.means, self.log_scales, self.prior_means, strict=True)
        parts = [gaussian.divergence_forward(m, s, own, self.prior_log_scale)[0] for m, s, own in triples]
        return torch.stack(parts).sum()


class StepAtDraw(NamedTuple):
    """A step's values at the one network that was drawn for it."""

    goal: Goal
    batch: Batch
    losses: Tensor  # cross-entropy of each example, at most the goal's ceiling, (B,)
    below: Tensor  # bool (B,), which of them are below the ceiling; the gradient is theirs
    batches: list[Batch]  # the examples below as one batch; none if there are none
    result: StepResult  # of the drawn network on that batch: its mean cross-entropy, gradient and tape
    value: Tensor  # objective, a scalar
    risk: Tensor  # mean bounded loss (or cross-entropy, by ``risk``), a scalar
    divergence: Tensor  # KL, a scalar


class PosteriorStep:
    """Computes the gradient of a goal by all means and log-scales, at one draw of the weights for a whole batch.

    ``parameters`` are those of ``network.posterior``, flat. ``last`` is what the last step computed, ``drawn`` the
    network that was drawn for it, in whose ``.grad`` that network's own gradient stands, and ``noise`` the standard
    normal numbers, of the same form, that it was drawn with. ``prior`` has the prior's means, flat.
    """

    last: StepAtDraw

    def __init__(self, network: GaussianMLP) -> None:
        self.network = network
        self.drawn, self.noise = MLP(network.sizes), MLP(network.sizes).requires_grad_(False)
        self.parameters = FlatParameters(network.posterior)
        self._drawn, self._noise, self.prior = map(FlatParameters, (self.drawn, self.noise, network.prior))
        # All vectors of parameters lie in one order, so that formulas are of whole vectors (P,).
        size = self._drawn.vector.numel()
        self._mean, self._log_scale = self.parameters.vector.data.split(size)
        self._d_mean, self._d_log_scale = self.parameters.gradient.split(size)

    @torch.no_grad()
    def __call__(self, goal: Goal, x_BD: Tensor, labels_B: Tensor, generator: torch.Generator) -> StepAtDraw:
        """Draw the weights and put the gradient into ``parameters.gradient``; returns ``last``.

        By ``risk`` the gradient of the log-scales is 0: only the means are trained, at the prior's noise.
        """
        noise = self._noise.vector.data.normal_(generator=generator)
        w, deviation = gaussian.sample_forward(self._mean, self._log_scale, noise)
        self._drawn.vector.data.copy_(w)
        batch = (x_BD, labels_B)
        batches, result = [batch], put_flat_gradients(self._drawn, [batch])
        losses = result.tapes[0].loss_B
        assert losses is not None
        below = ~(losses >= goal.ceiling)  # NaN is handed on, not hidden behind the ceiling
        losses = losses.clamp(max=goal.ceiling)
        if goal.objective == "risk":
            self._d_mean.copy_(self._drawn.gradient)
            self._d_log_scale.zero_()
            loss, none = result.loss, torch.zeros(())
            self.last = StepAtDraw(goal, batch, losses, below, batches, result, loss, loss, none)
            return self.last
        if not below.all():
            batches = [(x_BD[below], labels_B[below])] if below.any() else []
            self._drawn.gradient.zero_()
            result = put_flat_gradients(self._drawn, batches)
        mean_below = result.loss if batches else torch.zeros(())
        risk, slope = bounded_risk_forward(mean_below, int(below.sum()), len(below), goal.ceiling)
        prior = self.prior.vector.data, self.network.prior_log_scale
        divergence, tape = gaussian.divergence_forward(self._mean, self._log_scale, *prior)
        weight = goal.divergence_weight
        value, slopes = OBJECTIVES[goal.objective](risk, divergence * weight, goal.examples, goal.cost)
        d_risk, d_weighted = objective_backward(slopes, torch.ones_like(value))
        d_w = self._drawn.gradient * bounded_risk_backward(slope, d_risk)
        by_sample = gaussian.sample_backward(deviation, d_w)
        by_divergence = gaussian.divergence_backward(tape, d_weighted * weight)
        torch.add(by_sample[0], by_divergence[0], out=self._d_mean)
        torch.add(by_sample[1], by_divergence[1], out=self._d_log_scale)
        self.last = StepAtDraw(goal, batch, losses, below, batches, result, value, risk, divergence)
        return self.last
