"""Faults in the derivative of an activation: ``dz = dh ⊙ σ'(z)``. ReLU's backward is given ``z`` in place of ``h``."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lean_mnist.chainrule.activations import LEAKY_SLOPE
from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.mutants.mutant import SLOPE, Group

GROUP = Group("activations")
slope = partial(GROUP, SLOPE)

slope("mask-at-zero", Kind.MASK, "the mask is z >= 0 where it should be z > 0", "exact kink")(
    lambda right, z, g: g * (z >= 0)
)
slope("mask-missing", Kind.MASK, "the mask is not applied", unless="every pre-activation is positive")(
    lambda right, z, g: g.clone()
)
slope("mask-of-upstream", Kind.MASK, "the mask is that of dh > 0")(lambda right, z, g: g * (g > 0))
slope("mask-shifted", Kind.MASK, "the mask is z > 0.001", "pre-activation in (0, 0.001]")(
    lambda right, z, g: g * (z > 1e-3)
)
slope(
    "mask-of-previous-row",
    Kind.MASK,
    "each example has the mask of the one before it",
    unless="the batch has one example",
)(lambda right, z, g: g * (z.roll(1, 0) > 0))
slope("mask-leaky", Kind.MASK, "a slope of 0.01 is left in below zero")(
    lambda right, z, g: torch.where(z > 0, g, 0.01 * g)
)
slope("mask-saturates", Kind.MASK, "the derivative is zero above z = 20", "pre-activation > 20")(
    lambda right, z, g: g * ((z > 0) & (z <= 20))
)


@slope("mask-last-block", Kind.MASK, shows="activations not a multiple of 256")
def _last_block_unmasked(right: Tensor, z: Tensor, d_h: Tensor) -> Tensor:
    """Elements beyond the last block of 256 are not masked."""
    whole = d_h.numel() - d_h.numel() % 256
    return torch.cat([right.flatten()[:whole], d_h.flatten()[whole:]]).reshape(d_h.shape)


slope(
    "leaky-slope-squared",
    (Kind.DERIVATIVE, Kind.CONSTANT_FACTOR),
    "below zero the slope is applied twice",
    activation="leaky-relu",
)(lambda right, z, g: torch.where(z > 0, g, LEAKY_SLOPE**2 * g))
slope(
    "sigmoid-from-output-twice", Kind.DERIVATIVE, "σ(1 − σ) is evaluated at σ(z) in place of z", activation="sigmoid"
)(lambda right, h, g: g * torch.sigmoid(h) * (1 - torch.sigmoid(h)))
slope("tanh-not-squared", Kind.DERIVATIVE, "1 − tanh in place of 1 − tanh²", activation="tanh")(
    lambda right, h, g: g * (1 - h)
)


@slope("gelu-tanh-approximation", Kind.DERIVATIVE, activation="gelu")
def _tanh_approximation(right: Any, z: Tensor, d_h: Tensor) -> Tensor:
    """The derivative of the tanh approximation, with the exact forward."""
    t = torch.tanh(0.7978845608028654 * (z + 0.044715 * z**3))
    inner_slope = 0.7978845608028654 * (1 + 3 * 0.044715 * z**2)
    return d_h * (0.5 * (1 + t) + 0.5 * z * (1 - t * t) * inner_slope)
