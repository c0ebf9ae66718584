"""Faults in the derivative of an activation: ``dz = dh ⊙ σ'(z)``. ReLU's backward is given ``z`` in place of ``h``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lean_mnist.chainrule.activations import LEAKY_SLOPE
from lean_mnist.mutants.mutant import Mutant, corpus

_activations = corpus("activations", "activation")


def _derivative(formula: Any) -> Any:
    """The fault that returns ``formula(saved, d_h)``."""
    return lambda original, saved, d_h: formula(saved, d_h)


def _last_block_unmasked(original: Any, z: Tensor, d_h: Tensor) -> Tensor:
    d_z = original(z, d_h).flatten()
    whole = d_z.numel() - d_z.numel() % 256
    return torch.cat([d_z[:whole], d_h.flatten()[whole:]]).reshape(d_h.shape)


def _tanh_approximation(z: Tensor, d_h: Tensor) -> Tensor:
    inner = 0.7978845608028654 * (z + 0.044715 * z**3)
    slope = 0.7978845608028654 * (1 + 3 * 0.044715 * z**2)
    t = torch.tanh(inner)
    return d_h * (0.5 * (1 + t) + 0.5 * z * (1 - t * t) * slope)


MUTANTS: tuple[Mutant, ...] = (
    _activations(
        "mask-at-zero",
        "the mask is z >= 0 where it should be z > 0",
        _derivative(lambda z, g: g * (z >= 0)),
        "exact kink",
    ),
    _activations(
        "mask-missing",
        "the mask is not applied",
        _derivative(lambda z, g: g.clone()),
        equivalent_when="every pre-activation is positive",
    ),
    _activations("mask-of-upstream", "the mask is that of dh > 0", _derivative(lambda z, g: g * (g > 0))),
    _activations(
        "mask-shifted",
        "the mask is z > 0.001",
        _derivative(lambda z, g: g * (z > 1e-3)),
        "pre-activation in (0, 0.001]",
    ),
    _activations(
        "mask-of-previous-row",
        "each example has the mask of the one before it",
        _derivative(lambda z, g: g * (z.roll(1, 0) > 0)),
        equivalent_when="the batch has one example",
    ),
    _activations(
        "mask-leaky", "a slope of 0.01 is left in below zero", _derivative(lambda z, g: torch.where(z > 0, g, 0.01 * g))
    ),
    _activations(
        "mask-saturates",
        "the derivative is zero above z = 20",
        _derivative(lambda z, g: g * ((z > 0) & (z <= 20))),
        "pre-activation > 20",
    ),
    _activations(
        "mask-last-block",
        "elements beyond the last block of 256 are not masked",
        _last_block_unmasked,
        "activations not a multiple of 256",
    ),
    _activations(
        "leaky-slope-squared",
        "below zero the slope is applied twice",
        _derivative(lambda z, g: torch.where(z > 0, g, LEAKY_SLOPE**2 * g)),
        "activation leaky-relu",
        activation="leaky-relu",
    ),
    _activations(
        "sigmoid-from-output-twice",
        "σ(1 − σ) is evaluated at σ(z) in place of z",
        _derivative(lambda h, g: g * torch.sigmoid(h) * (1 - torch.sigmoid(h))),
        "activation sigmoid",
        activation="sigmoid",
    ),
    _activations(
        "tanh-not-squared",
        "1 − tanh in place of 1 − tanh²",
        _derivative(lambda h, g: g * (1 - h)),
        "activation tanh",
        activation="tanh",
    ),
    _activations(
        "gelu-tanh-approximation",
        "the derivative of the tanh approximation, with the exact forward",
        _derivative(_tanh_approximation),
        "activation gelu",
        activation="gelu",
    ),
)
