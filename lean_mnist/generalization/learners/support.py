"""Kernel perceptrons that keep a fixed number of support vectors: the newest first, the oldest dropped.

Both begin with vectors of zeros labelled false, which take up places but add nothing to a linear or quadratic kernel.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.learners.base import Booleans, Examples, Learner
from lean_mnist.generalization.learners.kernel import signs
from lean_mnist.generalization.learners.sums import Floats, kernel_named, ordered_sum


class SupportParameters(NamedTuple):
    """``x`` float32 (S, n), ``label`` bool (S,) and ``weight`` float32 (S,), newest first; ``mistakes`` so far."""

    x: Floats
    label: Booleans
    weight: Floats
    mistakes: np.float32


class _SupportPerceptron(Learner[SupportParameters]):
    """Predicts ``Σ_i (y_i w_i) K(x_i, x) > 0`` over its S places, newest first."""

    def __init__(self, features: int, places: int, kernel: str) -> None:
        if places < 1:
            raise ArgumentError(f"support vectors: {places}, expected at least 1")
        self.features, self.places, self.kernel = features, places, kernel_named(kernel)

    def initial(self, examples: Examples) -> SupportParameters:
        places = self.places
        x, weight = np.zeros((places, self.features), np.float32), np.zeros(places, np.float32)
        return SupportParameters(x, np.zeros(places, np.bool_), weight, np.float32(0))

    def predict(self, parameters: SupportParameters, x_Bn: Floats) -> Booleans:
        self.check(x_Bn)
        active = np.flatnonzero(parameters.weight)  # a term that is 0 changes no sum
        signed_S = signs(parameters.label[active]) * parameters.weight[active]
        return ordered_sum(signed_S[:, None] * self.kernel(parameters.x[active], x_Bn)) > 0

    def update(self, parameters: SupportParameters, examples: Examples, index: int) -> SupportParameters:
        x_n, label = examples.x[index], bool(examples.label[index])
        if self.predict(parameters, x_n[None])[0] == label:
            return parameters
        return self.mistaken(parameters, x_n, label)

    @abstractmethod
    def mistaken(self, parameters: SupportParameters, x_n: Floats, label: bool) -> SupportParameters:
        """The parameters after a mistake on ``x (n,)``."""

    def state(self, parameters: SupportParameters) -> bytes:
        return b"".join(np.asarray(part).tobytes() for part in parameters)

    def walker(self, examples: Examples) -> Callable[[SupportParameters], SupportParameters]:
        def walk(parameters: SupportParameters) -> SupportParameters:
            start, width, m = 0, 4, len(examples)
            while start < m:
                stop = min(start + width, m)
                wrong = self.predict(parameters, examples.x[start:stop]) != examples.label[start:stop]
                first = int(wrong.argmax())
                if not wrong[first]:
                    start, width = stop, 2 * width
                    continue
                index = start + first
                parameters = self.mistaken(parameters, examples.x[index], bool(examples.label[index]))
                start, width = index + 1, max(1, min(width, 2 * first + 1))
            return parameters

        return walk


class BudgetKernelPerceptron(_SupportPerceptron):
    """On a mistake: where x is a support vector already its weight grows by 1, else (x, y) enters with weight 1.

    It has ``budget + 1`` places, and ``(budget + 1)(33 + 32 n)`` bits.
    """

    def __init__(self, features: int, budget: int, kernel: str = "linear") -> None:
        if budget < 0:
            raise ArgumentError(f"budget: {budget}, expected at least 0")
        super().__init__(features, budget + 1, kernel)

    def mistaken(self, parameters: SupportParameters, x_n: Floats, label: bool) -> SupportParameters:
        same = (parameters.x == x_n).all(1)
        if same.any():
            return parameters._replace(weight=parameters.weight + same.astype(np.float32))
        return _prepended(parameters, x_n, label)

    def bits(self, m: int) -> int:
        return self.places * (33 + 32 * self.features)


class DescriptionKernelPerceptron(_SupportPerceptron):
    """On a mistake: nothing once ``limit`` mistakes were counted, else the count grows and (x, y) enters.

    Weights are 1 and no parameters. It has ``description + 1`` places, and ``32 + (1 + 32 n)(description + 1)`` bits.
    """

    def __init__(self, features: int, description: int, limit: float, kernel: str = "linear") -> None:
        if description < 0:
            raise ArgumentError(f"description: {description}, expected at least 0")
        super().__init__(features, description + 1, kernel)
        self.limit = np.float32(limit)

    def mistaken(self, parameters: SupportParameters, x_n: Floats, label: bool) -> SupportParameters:
        if parameters.mistakes == self.limit:
            return parameters
        return _prepended(parameters, x_n, label)._replace(mistakes=np.float32(parameters.mistakes + np.float32(1)))

    def bits(self, m: int) -> int:
        return 32 + (1 + 32 * self.features) * self.places


def _prepended(parameters: SupportParameters, x_n: Floats, label: bool) -> SupportParameters:
    x, labels, weight, mistakes = parameters
    return SupportParameters(
        np.concatenate((x_n[None], x[:-1])),
        np.concatenate((np.array([label]), labels[:-1])),
        np.concatenate((np.ones(1, np.float32), weight[:-1])),
        mistakes,
    )
