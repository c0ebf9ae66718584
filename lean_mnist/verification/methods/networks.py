"""Small networks of symbols and of fractions, and exact derivatives of the latter without any chain rule.

A network of ReLU, leaky ReLU or identity units is affine in any *one* of its parameters and inputs as long as no unit
crosses its kink, so its squared error is a parabola in that number, and the central difference of a parabola is its
derivative, for any step. The signs of all pre-activations must agree at both ends of a tiny step; each is affine in
between, so they agree throughout. What is evaluated is the forward of ``chainrule`` itself.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from lean_mnist.chainrule import dense, losses, mlp
from lean_mnist.chainrule.activations import activation_named
from lean_mnist.verification.methods.indexed import variable
from lean_mnist.verification.methods.sums import Expr, size_symbol
from lean_mnist.verification.model import NotEstablished

B, D, H, H2, C, M, N = (size_symbol(name) for name in ("B", "D", "H", "H2", "C", "m", "n"))
_STEP = Fraction(1, 10**30)


def symbolic_layers(*sizes: Expr) -> list[mlp.Layer]:
    """Layers of variables for the given sizes."""
    return [
        (variable(f"W{n}", after, before), variable(f"b{n}", after))
        for n, (before, after) in enumerate(itertools.pairwise(sizes))
    ]


def named_gradients(x: Any, layers: Sequence[mlp.Layer], found: mlp.MLPGradients) -> Iterator[tuple[str, Any, Any]]:
    """Name, variable and gradient of the input and of every weight and bias, first layer first."""
    yield "x", x, found.x_BD
    for n, (layer, gradients) in enumerate(zip(layers, found.layers, strict=True)):
        for name, parameter, gradient in zip(("weight", "bias"), layer, gradients, strict=True):
            if parameter is not None:
                yield f"layers[{n}].{name}", parameter, gradient


def random_fractions(rng: random.Random, *shape: int) -> Any:
    """Fractions between −2 and 2 with denominator 13, none of them 0."""
    numbers = [Fraction(rng.choice([-1, 1]) * rng.randint(1, 26), 13) for _ in range(math.prod(shape))]
    return np.array(numbers, dtype=object).reshape(shape)


@dataclass
class RationalNetwork:
    """A network of fractions and a batch for it; the loss is ``Σ_B upstream_B · loss_B`` with the squared error."""

    activation: str
    x: Any
    labels: Any
    layers: list[tuple[Any, Any]]
    upstream: Any

    @classmethod
    def random(cls, seed: int, sizes: Sequence[int], activation: str, batch: int, bias: bool = True) -> RationalNetwork:
        """A network of these layer sizes, and a batch, drawn from ``seed``."""
        rng = random.Random(seed)
        layers = [
            (random_fractions(rng, after, before), random_fractions(rng, after) if bias else None)
            for before, after in itertools.pairwise(sizes)
        ]
        labels = np.array([rng.randrange(sizes[-1]) for _ in range(batch)])
        x, upstream = random_fractions(rng, batch, sizes[0]), random_fractions(rng, batch)
        return cls(activation, x, labels, layers, upstream)

    def loss_and_gradients(self) -> tuple[Any, list[tuple[str, Any, Any]]]:
        """The losses of the batch; name, variable and hand-written gradient of the input and of every parameter."""
        loss, activation = losses.squared_error(), activation_named(self.activation)
        loss_B, tape = mlp.mlp_loss_forward(self.x, self.labels, self.layers, activation, loss)
        found = mlp.mlp_loss_backward(tape, self.layers, activation, loss, self.upstream)
        return loss_B, list(named_gradients(self.x, self.layers, found))

    def loss_and_signs(self) -> tuple[Fraction, tuple[int, ...]]:
        """The loss, and the side of its kink on which every hidden unit stands: −1, 0 or 1."""
        h, signs = self.x, list[int]()
        for weight, bias in self.layers[:-1]:
            z, _ = dense.dense_forward(h, weight, bias)
            signs += [(value > 0) - (value < 0) for value in z.flat]
            h, _ = activation_named(self.activation).forward(z)
        s, _ = dense.dense_forward(h, *self.layers[-1])
        loss_B, _ = losses.squared_error().forward(s, self.labels)
        return (loss_B * self.upstream).sum(), tuple(signs)


def derivatives_by_differences(network: RationalNetwork, container: Any) -> Any:
    """``∂loss/∂container``, exactly, one entry at a time; ``container`` is the input or a parameter of ``network``."""
    found = [_derivative(network, container, index) for index in np.ndindex(container.shape)]
    return np.array(found, dtype=object).reshape(container.shape)


def _derivative(network: RationalNetwork, container: Any, index: tuple[int, ...]) -> Fraction:
    value, found = container[index], []
    for moved in (value - _STEP, value + _STEP, value):
        container[index] = moved
        found.append(network.loss_and_signs())
    (below, signs_below), (above, signs_above), (_, signs) = found
    if 0 in signs or not signs_below == signs == signs_above:
        raise NotEstablished("the example sits on a kink, or too near: choose another seed")
    return (above - below) / (2 * _STEP)
