"""A multilayer perceptron whose weights are drawn anew from a Gaussian every time it is used.

Shapes: ``B`` batch, ``D`` input features, ``H`` units, ``C`` classes, ``P`` parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lean_mnist.chainrule.losses import Loss
from lean_mnist.errors import ArgumentError
from lean_mnist.nn import MLP, functional, gaussian


class GaussianMLP(nn.Module):
    """Independent Gaussians ``N(μ, e^{2ℓ})`` over the weights and biases of an MLP with ReLU, and a prior of its form.

    It starts as its own prior, at the initial weights of ``MLP(sizes, seed=seed)`` with deviation ``prior_scale`` of
    every parameter. ``prior_log_scale`` is one number for all parameters, so that the prior is ``prior_mean`` and it.
    """

    def __init__(self, sizes: Sequence[int], prior_scale: float, *, seed: int = 0) -> None:
        """Raises ``ArgumentError`` for impossible sizes or scales."""
        super().__init__()
        if not 0 < prior_scale < math.inf:
            raise ArgumentError(f"prior_scale: expected a finite number above 0, found {prior_scale}")
        network = MLP(sizes, seed=seed)
        self.sizes, self.names = network.sizes, tuple(name for name, _ in network.named_parameters())
        initial = [parameter.detach() for parameter in network.parameters()]
        self.means = nn.ParameterList(initial)
        self.log_scales = nn.ParameterList(torch.empty_like(mean) for mean in initial)
        self.prior_means = [mean.clone() for mean in initial]
        self.prior_scale = prior_scale
        self.start_from_prior()

    def start_from_prior(self) -> None:
        """Make the prior and the posterior one: the present means, and ``prior_scale`` of every parameter."""
        self.prior_means = [mean.detach().clone() for mean in self.means]
        with torch.no_grad():
            for log_scale in self.log_scales:
                log_scale.fill_(math.log(self.prior_scale))

    @property
    def prior_log_scale(self) -> Tensor:
        return torch.tensor(math.log(self.prior_scale), dtype=self.means[0].dtype)

    def noise(self, generator: torch.Generator) -> list[Tensor]:
        """One draw from N(0, 1) for every parameter."""
        return [torch.randn(mean.shape, dtype=mean.dtype, generator=generator) for mean in self.means]

    def draw(self, noise: Sequence[Tensor]) -> list[Tensor]:
        """The weights that this noise gives, weight and bias of each layer in turn."""
        triples = zip(self.means, self.log_scales, noise, strict=True)
        return [gaussian.sample(mean, log_scale, own) for mean, log_scale, own in triples]

    def loss(self, x_BD: Tensor, labels_B: Tensor, noise: Sequence[Tensor], loss: Loss) -> Tensor:
        """The mean over a batch of ``loss`` of the network that this noise gives, one network for the whole batch."""
        weights = self.draw(noise)
        layers = list(zip(weights[::2], weights[1::2], strict=True))
        return functional.mlp_loss(x_BD, labels_B, layers, "relu", loss)

    def divergence(self) -> Tensor:
        """``KL(posterior ‖ prior)`` in nats, a scalar."""
        prior, triples = self.prior_log_scale, zip(self.means, self.log_scales, self.prior_means, strict=True)
        parts = [gaussian.divergence(mean, log_scale, own, prior) for mean, log_scale, own in triples]
        return torch.stack(parts).sum()
