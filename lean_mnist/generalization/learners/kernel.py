"""The kernel perceptron (Aizerman, Braverman and Rozonoer, 1964): one weight a training example."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.learners.base import Booleans, Examples, Learner, signs
from lean_mnist.generalization.learners.sums import Floats, kernel_named, ordered_sum

_LARGEST_TABLE = 1 << 26


class KernelParameters(NamedTuple):
    """The training set and the number of mistakes on each of its examples: float32 (m,)."""

    support: Examples
    weights: Floats


class KernelPerceptron(Learner[KernelParameters]):
    """Predicts ``Σ_i (y_i a_i) K(x_i, x) > 0``, in the order of the training set; on a mistake ``a_i ← a_i + 1``.

    ``32 m n + 32 m`` bits: the training set is a parameter, so that the union bound is vacuous for every m.
    """

    def __init__(self, features: int, kernel: str = "linear") -> None:
        self.features, self.kernel = features, kernel_named(kernel)

    def initial(self, examples: Examples) -> KernelParameters:
        """All weights 0."""
        return KernelParameters(examples, np.zeros(len(examples), np.float32))

    def predict(self, parameters: KernelParameters, x_Bn: Floats) -> Booleans:
        """``Σ_i (y_i a_i) K(x_i, x) > 0``, labels (B,)."""
        self.check(x_Bn)
        support, weights = parameters
        active = np.flatnonzero(weights)  # a term that is 0 changes no sum
        signed_S = signs(support.label[active]) * weights[active]
        return ordered_sum(signed_S[:, None] * self.kernel(support.x[active], x_Bn)) > 0

    def block_predictor(self, examples: Examples) -> Callable[[KernelParameters, int, int], Booleans]:
        """As of any learner, from a table of the kernel of every pair of examples if 2^26 numbers hold it."""
        if len(examples) ** 2 > _LARGEST_TABLE:
            return super().block_predictor(examples)
        table, y_m = self.kernel(examples.x, examples.x), signs(examples.label)

        def predict(parameters: KernelParameters, start: int, stop: int) -> Booleans:
            _check_same(parameters, examples)
            active = np.flatnonzero(parameters.weights)
            signed_S = y_m[active] * parameters.weights[active]
            return ordered_sum(signed_S[:, None] * table[active, start:stop]) > 0

        return predict

    def mistaken(self, parameters: KernelParameters, examples: Examples, index: int) -> KernelParameters:
        """One more mistake on this example."""
        _check_same(parameters, examples)
        weights = parameters.weights.copy()
        weights[index] += 1
        return KernelParameters(parameters.support, weights)

    def bits(self, m: int) -> int:
        """``32 m n + 32 m``."""
        return 32 * m * self.features + 32 * m

    def state(self, parameters: KernelParameters) -> bytes:
        """The bytes of the weights."""
        return parameters.weights.tobytes()


def _check_same(parameters: KernelParameters, examples: Examples) -> None:
    own = parameters.support
    if own is not examples and not (np.array_equal(own.x, examples.x) and np.array_equal(own.label, examples.label)):
        raise ArgumentError("examples: others than those in the parameters, expected the same training set")
