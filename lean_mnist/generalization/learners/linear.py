"""The linear threshold perceptron (Rosenblatt, 1958)."""

from __future__ import annotations

from collections.abc import Callable
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
        return LinearParameters(np.zeros(self.features, np.float32), np.float32(0))

    def predict(self, parameters: LinearParameters, x_Bn: Floats) -> Booleans:
        self.check(x_Bn)
        return ordered_dot(parameters.w, x_Bn) + parameters.b > self.theta

    def update(self, parameters: LinearParameters, examples: Examples, index: int) -> LinearParameters:
        label = examples.label[index]
        if self.predict(parameters, examples.x[index : index + 1])[0] == label:
            return parameters
        return self._corrected(parameters, examples.x[index], bool(label))

    def _corrected(self, parameters: LinearParameters, x_n: Floats, label: bool) -> LinearParameters:
        y = np.float32(1 if label else -1)
        return LinearParameters(parameters.w + (self.alpha * y) * x_n, np.float32(parameters.b + y))

    def bits(self, m: int) -> int:
        return 32 * self.features + 32

    def state(self, parameters: LinearParameters) -> bytes:
        return parameters.w.tobytes() + parameters.b.tobytes()

    def walker(self, examples: Examples) -> Callable[[LinearParameters], LinearParameters]:
        def walk(parameters: LinearParameters) -> LinearParameters:
            start, width = 0, 1
            while start < len(examples):
                stop = min(start + width, len(examples))
                wrong = self.predict(parameters, examples.x[start:stop]) != examples.label[start:stop]
                if wrong.any():
                    index = start + int(wrong.argmax())
                    parameters = self._corrected(parameters, examples.x[index], bool(examples.label[index]))
                    start, width = index + 1, max(1, width // 2)
                else:
                    start, width = stop, 2 * width
            return parameters

        return walk
