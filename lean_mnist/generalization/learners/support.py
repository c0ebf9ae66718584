"""Kernel perceptrons with a fixed number of support vectors, the newest first; the oldest is dropped.

Both begin with vectors of zeros labelled false, which take up places but add nothing to a linear or quadratic kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.learners.base import Booleans, Examples, Learner, signs
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
        self.features, self.places, self.kernel = features, places, kernel_named(kernel)

    def initial(self, examples: Examples) -> SupportParameters:
        """Vectors of zeros with weight 0."""
        x_Sn, weight_S = np.zeros((self.places, self.features), np.float32), np.zeros(self.places, np.float32)
        return SupportParameters(x_Sn, np.zeros(self.places, np.bool_), weight_S, np.float32(0))

    def predict(self, parameters: SupportParameters, x_Bn: Floats) -> Booleans:
        """``Σ_i (y_i w_i) K(x_i, x) > 0``, labels (B,)."""
        self.check(x_Bn)
        active = np.flatnonzero(parameters.weight)  # a term that is 0 changes no sum
        signed_S = signs(parameters.label[active]) * parameters.weight[active]
        return ordered_sum(signed_S[:, None] * self.kernel(parameters.x[active], x_Bn)) > 0

    def state(self, parameters: SupportParameters) -> bytes:
        """The bytes of every part."""
        return b"".join(np.asarray(part).tobytes() for part in parameters)


class BudgetKernelPerceptron(_SupportPerceptron):
    """On a mistake: where x is a support vector already its weight grows by 1, else (x, y) enters with weight 1.

    It has ``budget + 1`` places, and ``(budget + 1)(33 + 32 n)`` bits.
    """

    def __init__(self, features: int, budget: int, kernel: str = "linear") -> None:
        if budget < 0:
            raise ArgumentError(f"budget: {budget}, expected at least 0")
        super().__init__(features, budget + 1, kernel)

    def mistaken(self, parameters: SupportParameters, examples: Examples, index: int) -> SupportParameters:
        """One more weight on the support vector, or a new one."""
        same_S = (parameters.x == examples.x[index]).all(1)
        if same_S.any():
            return parameters._replace(weight=parameters.weight + same_S.astype(np.float32))
        return _prepended(parameters, examples, index)

    def bits(self, m: int) -> int:
        """``(budget + 1)(33 + 32 n)``."""
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

    def mistaken(self, parameters: SupportParameters, examples: Examples, index: int) -> SupportParameters:
        """A new support vector, unless the limit is reached."""
        if parameters.mistakes == self.limit:
            return parameters
        counted = np.float32(parameters.mistakes + np.float32(1))
        return _prepended(parameters, examples, index)._replace(mistakes=counted)

    def bits(self, m: int) -> int:
        """``32 + (1 + 32 n)(description + 1)``."""
        return 32 + (1 + 32 * self.features) * self.places


def _prepended(parameters: SupportParameters, examples: Examples, index: int) -> SupportParameters:
    """Example number ``index`` in the first place, with weight 1; the last place is dropped."""
    x_Sn, label_S, weight_S, mistakes = parameters
    return SupportParameters(
        np.concatenate((examples.x[index : index + 1], x_Sn[:-1])),
        np.concatenate((examples.label[index : index + 1], label_S[:-1])),
        np.concatenate((np.ones(1, np.float32), weight_S[:-1])),
        mistakes,
    )
