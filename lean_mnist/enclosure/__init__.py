"""Enclosure: the exact real gradient of a batch, enclosed by ball arithmetic that runs the chain rule itself."""

from lean_mnist.enclosure.ball import Ball
from lean_mnist.enclosure.enclose import (
    Between,
    Enclosure,
    GradientBound,
    bound_gradient,
    enclose_gradients,
    enclose_model_gradients,
)
from lean_mnist.enclosure.primitives import BallPrimitives

__all__ = [
    "Ball",
    "BallPrimitives",
    "Between",
    "Enclosure",
    "GradientBound",
    "bound_gradient",
    "enclose_gradients",
    "enclose_model_gradients",
]
