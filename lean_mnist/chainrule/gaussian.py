"""Independent Gaussians over the weights of a network: sampling, and KL divergence from a prior of the same form.

Shapes: ``mean``, ``log_scale`` (ℓ = ln σ, which keeps σ above 0 and accurate where it is small) and ``noise`` have one
shape, any; those of the prior broadcast to it.
"""

from typing import NamedTuple

from lean_mnist.chainrule.arrays import Array, check_upstream, primitives
from lean_mnist.errors import ArgumentError


# w = μ + e^ℓ ⊙ ε, ε ~ N(0, 1);  dμ = dw,  dℓ = dw ⊙ e^ℓ ⊙ ε. The reparametrisation of Kingma and Welling (2014,
# section 2.4), for weights as in Blundell et al. (2015, section 3.2).
def sample_forward(mean: Array, log_scale: Array, noise: Array) -> tuple[Array, Array]:
    """Draw ``w = μ + e^ℓ ⊙ ε``; the tape is its distance from the mean, ``e^ℓ ⊙ ε``."""
    _check_shapes(mean, log_scale=log_scale, noise=noise)
    deviation = primitives(log_scale).exp(log_scale) * noise
    return mean + deviation, deviation


def sample_backward(deviation: Array, d_w: Array) -> tuple[Array, Array]:
    """Gradients ``(dμ, dℓ)`` from ``dw``."""
    check_upstream("d_w", d_w, deviation.shape)
    return d_w, d_w * deviation


class DivergenceTape(NamedTuple):
    """``(μ − μ₀) / σ₀²`` and ``σ² / σ₀²``."""

    pull: Array
    ratio: Array


# KL(N(μ, σ²) ‖ N(μ₀, σ₀²)) = Σ ½ (σ²/σ₀² − 1 + (μ − μ₀)²/σ₀²) − (ℓ − ℓ₀), ℓ = ln σ;
# dμ = (μ − μ₀)/σ₀²,  dℓ = σ²/σ₀² − 1, each times the upstream gradient.
def divergence_forward(
    mean: Array, log_scale: Array, prior_mean: Array, prior_log_scale: Array
) -> tuple[Array, DivergenceTape]:
    """``KL(posterior ‖ prior)`` in nats, a scalar."""
    _check_shapes(mean, log_scale=log_scale)
    p = primitives(mean)
    precision = p.exp(-2 * prior_log_scale)
    shift, stretch = mean - prior_mean, log_scale - prior_log_scale
    if tuple(shift.shape) != tuple(mean.shape) or tuple(stretch.shape) != tuple(mean.shape):
        raise ArgumentError(f"prior: expected a shape that broadcasts to that of mean, {tuple(mean.shape)}")
    pull, ratio = shift * precision, p.exp(2 * stretch)
    terms = (ratio - 1 + shift * pull) / 2 - stretch
    return terms.reshape(-1).sum(0), DivergenceTape(pull, ratio)


def divergence_backward(tape: DivergenceTape, d_divergence: Array) -> tuple[Array, Array]:
    """Gradients ``(dμ, dℓ)`` from the upstream gradient of the divergence, a scalar."""
    return tape.pull * d_divergence, (tape.ratio - 1) * d_divergence


def _check_shapes(mean: Array, **others: Array) -> None:
    primitives(mean)
    for name, other in others.items():
        if tuple(other.shape) != tuple(mean.shape):
            raise ArgumentError(f"{name}: expected the shape of mean, {tuple(mean.shape)}, found {tuple(other.shape)}")
