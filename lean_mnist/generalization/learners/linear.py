"""The linear threshold perceptron (Rosenblatt, 1958)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lean_mnist.generalization.learners.base import Booleans, Examples, Learner
from lean_mnist.generalization.learners.sums import Floats, ordered_dot


class LinearParameters(NamedTuple):
    """``w`` float32 (n,) and ``b``."""

    w: Floats
    b: np.float32


class Perceptron(Learner[LinearParameters]):
    """Predicts ``w·x + b > θ``; on a mistake ``w ← w + (α y) x`` and ``b ← b + y``, with y = ±1; b is not scaled by α.

    ``32 n + 32`` bits.
    """

    def __init__(self, features: int, alpha: float = 1.0, theta: float = 0.0) -> None:
        self.features, self.alpha, self.theta = features, np.float32(alpha), np.float32(theta)

    def initial(self, examples: Examples) -> LinearParameters:
        """Zeros."""
        return LinearParameters(np.zeros(self.features, np.float32), np.float32(0))

    def predict(self, parameters: LinearParameters, x_Bn: Floats) -> Booleans:
        """``w·x + b > θ``, labels (B,)."""
        self.check(x_Bn)
        return ordered_dot(parameters.w, x_Bn) + parameters.b > self.theta

    def mistaken(self, parameters: LinearParameters, examples: Examples, index: int) -> LinearParameters:
        """``w + (α y) x`` and ``b + y``."""
        y = np.float32(1 if examples.label[index] else -1)
        return LinearParameters(parameters.w + (self.alpha * y) * examples.x[index], np.float32(parameters.b + y))

    def bits(self, m: int) -> int:
        """``32 n + 32``."""
        return 32 * self.features + 32

    def state(self, parameters: LinearParameters) -> bytes:
        """The bytes of w and b."""
        return parameters.w.tobytes() + parameters.b.tobytes()
