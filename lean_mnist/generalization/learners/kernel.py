"""The kernel perceptron (Aizerman, Braverman and Rozonoer, 1964): one weight a training example."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.learners.base import Booleans, Examples, Learner
from lean_mnist.generalization.learners.sums import Floats, kernel_named, ordered_sum

_FIRST_BLOCK, _LARGEST_TABLE = 16, 1 << 26


class KernelParameters(NamedTuple):
    """The training set and how often each of its examples was mistaken: float32 (m,)."""

    support: Examples
    weights: Floats


class KernelPerceptron(Learner[KernelParameters]):
    """Predicts ``Σ_i (y_i a_i) K(x_i, x) > 0``, in the order of the training set; on a mistake ``a_i ← a_i + 1``.

    ``32 m n + 32 m`` bits: the training set is a parameter, so that the union bound is vacuous for every m.
    """

    def __init__(self, features: int, kernel: str = "linear") -> None:
        self.features, self.kernel = features, kernel_named(kernel)

    def initial(self, examples: Examples) -> KernelParameters:
        return KernelParameters(examples, np.zeros(len(examples), np.float32))

    def predict(self, parameters: KernelParameters, x_Bn: Floats) -> Booleans:
        self.check(x_Bn)
        support, weights = parameters
        active = np.flatnonzero(weights)  # a term that is 0 changes no sum
        signed_S = signs(support.label[active]) * weights[active]
        return ordered_sum(signed_S[:, None] * self.kernel(support.x[active], x_Bn)) > 0

    def update(self, parameters: KernelParameters, examples: Examples, index: int) -> KernelParameters:
        _check_same(parameters, examples)
        if self.predict(parameters, examples.x[index : index + 1])[0] == examples.label[index]:
            return parameters
        weights = parameters.weights.copy()
        weights[index] += 1
        return KernelParameters(parameters.support, weights)

    def bits(self, m: int) -> int:
        return 32 * m * self.features + 32 * m

    def state(self, parameters: KernelParameters) -> bytes:
        return parameters.weights.tobytes()

    def walker(self, examples: Examples) -> Callable[[KernelParameters], KernelParameters]:
        if len(examples) ** 2 > _LARGEST_TABLE:
            return super().walker(examples)
        table, y = self.kernel(examples.x, examples.x), signs(examples.label)

        def walk(parameters: KernelParameters) -> KernelParameters:
            _check_same(parameters, examples)
            weights, m = parameters.weights.copy(), len(examples)
            start, width = 0, _FIRST_BLOCK
            while start < m:
                stop = min(start + width, m)
                active = np.flatnonzero(weights)
                signed_S = y[active] * weights[active]
                scores = ordered_sum(signed_S[:, None] * table[active, start:stop])
                wrong = (scores > 0) != examples.label[start:stop]
                first = int(wrong.argmax())
                if wrong[first]:
                    weights[start + first] += 1
                    start, width = start + first + 1, max(1, min(width, 2 * first + 1))
                else:
                    start, width = stop, 2 * width
            return KernelParameters(parameters.support, weights)

        return walk


def _check_same(parameters: KernelParameters, examples: Examples) -> None:
    own = parameters.support
    if own is not examples and not (np.array_equal(own.x, examples.x) and np.array_equal(own.label, examples.label)):
        raise ArgumentError("examples: others than those in the parameters, expected the same training set")


def signs(label: Booleans) -> Floats:
    """+1 where true, −1 where false, float32."""
    return np.where(label, np.float32(1), np.float32(-1))
