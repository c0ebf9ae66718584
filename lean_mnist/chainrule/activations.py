"""Elementwise activations, each with its analytic derivative.

A forward returns the activation and the one array its backward needs; a backward multiplies the upstream gradient by
the derivative. All of them take and return arrays of any shape.
"""

from collections.abc import Callable
from typing import NamedTuple

from lean_mnist.chainrule.arrays import Array, primitives
from lean_mnist.errors import check_choice


class Activation(NamedTuple):
    """An elementwise function: ``forward(z) -> (h, saved)`` and ``backward(saved, d_h) -> d_z``."""

    name: str
    forward: Callable[[Array], tuple[Array, Array]]
    backward: Callable[[Array, Array], Array]


def relu_forward(z: Array) -> tuple[Array, Array]:
    """``max(z, 0)``; the output is kept, as it is positive exactly where z is."""
    h = primitives(z).where_nonpositive(z, 0, z)
    return h, h


def relu_backward(h: Array, d_h: Array) -> Array:
    """``ReLU'(z) = 1{z > 0}``, by convention 0 at 0."""
    return primitives(h).where_nonpositive(h, 0, d_h)


LEAKY_SLOPE = 0.01  # α


def leaky_relu_forward(z: Array) -> tuple[Array, Array]:
    """``z`` for z > 0, ``αz`` otherwise; the output is kept, as with α > 0 it has the sign of z."""
    p = primitives(z)
    h = p.where_nonpositive(z, p.constant(LEAKY_SLOPE, z) * z, z)
    return h, h


def leaky_relu_backward(h: Array, d_h: Array) -> Array:
    """Derivative 1 for z > 0, otherwise α, by convention also at 0."""
    p = primitives(h)
    return p.where_nonpositive(h, p.constant(LEAKY_SLOPE, h) * d_h, d_h)


def sigmoid_forward(z: Array) -> tuple[Array, Array]:
    """``σ(z) = 1 / (1 + e^−z)``."""
    h = primitives(z).sigmoid(z)
    return h, h


def sigmoid_backward(h: Array, d_h: Array) -> Array:
    """``σ' = σ (1 − σ)``."""
    return d_h * (h * (1 - h))


def tanh_forward(z: Array) -> tuple[Array, Array]:
    """``tanh z``."""
    h = primitives(z).tanh(z)
    return h, h


def tanh_backward(h: Array, d_h: Array) -> Array:
    """``tanh' = 1 − tanh²``."""
    return d_h * (1 - h * h)


def _normal_cdf(z: Array) -> Array:
    p = primitives(z)
    return (1 + p.erf(z / p.constant(2, z) ** p.constant(0.5, z))) / 2


def gelu_forward(z: Array) -> tuple[Array, Array]:
    """``z Φ(z)``, with ``Φ(z) = (1 + erf(z/√2)) / 2`` (Hendrycks and Gimpel, 2016; not the tanh approximation)."""
    return z * _normal_cdf(z), z


def gelu_backward(z: Array, d_h: Array) -> Array:
    """``GELU' = Φ(z) + z φ(z)``, with the density ``φ(z) = e^(−z²/2) / √(2π)``."""
    p, half = primitives(z), primitives(z).constant(0.5, z)
    density = p.exp(-(z * z) / 2) / (p.constant(2, z) ** half * p.pi(z) ** half)
    return d_h * (_normal_cdf(z) + z * density)


def silu_forward(z: Array) -> tuple[Array, Array]:
    """``z σ(z)``, with the logistic function σ (Elfwing, Uchibe and Doya, 2018)."""
    return z * primitives(z).sigmoid(z), z


def silu_backward(z: Array, d_h: Array) -> Array:
    """``SiLU' = σ(z) (1 + z (1 − σ(z)))``."""
    s = primitives(z).sigmoid(z)
    return d_h * (s * (1 + z * (1 - s)))


def identity_forward(z: Array) -> tuple[Array, Array]:
    """``z`` itself."""
    return z, z


def identity_backward(z: Array, d_h: Array) -> Array:
    """Derivative 1."""
    return d_h


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation("relu", relu_forward, relu_backward),
    "leaky-relu": Activation("leaky-relu", leaky_relu_forward, leaky_relu_backward),
    "sigmoid": Activation("sigmoid", sigmoid_forward, sigmoid_backward),
    "tanh": Activation("tanh", tanh_forward, tanh_backward),
    "gelu": Activation("gelu", gelu_forward, gelu_backward),
    "silu": Activation("silu", silu_forward, silu_backward),
    "identity": Activation("identity", identity_forward, identity_backward),
}


def activation_named(name: str) -> Activation:
    """The activation called ``name``; ``ArgumentError`` with the nearest name if there is none."""
    check_choice("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]
