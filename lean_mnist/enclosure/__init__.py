"""Enclosure: the exact real gradient of a batch, enclosed by ball arithmetic that runs the chain rule itself."""

from lean_mnist.enclosure import primitives as primitives  # which gives balls to the chain rule
