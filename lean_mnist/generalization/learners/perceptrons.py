"""The perceptron (Rosenblatt, 1958) and kernel perceptrons (Aizerman, Braverman and Rozonoer, 1964) of MLCERT.

Shapes: ``m`` training examples, ``n`` features, ``B`` examples to predict, ``S`` support vectors.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.learners.base import Booleans, Examples, Floats, Learner

Kernel = Callable[[Floats, Floats], Floats]


def ordered_sum(terms_SB: Floats) -> Floats:
    """``((0 + t_1) + t_2) + …`` down each column of float32 ``(S, B)``: ``(B,)``, zeros if there is no term.

    ``np.sum`` and ``@`` add in an order of their own choosing, which differs between machines.
    """
    if len(terms_SB) == 0:
        return np.zeros(terms_SB.shape[1], np.float32)
    # accumulate is defined by r[i] = r[i − 1] + t[i]; reduce may add in pairs
    total_B: Floats = np.add.accumulate(terms_SB, axis=0)[-1]
    return total_B


def linear_kernel(x_Sn: Floats, z_Bn: Floats) -> Floats:
    """``K(x, z) = x·z`` of every pair of rows, features added in order: float32 ``(S, B)``."""
    total_SB = np.zeros((len(x_Sn), len(z_Bn)), np.float32)
    for x_S, z_B in zip(x_Sn.T, z_Bn.T, strict=True):
        total_SB += x_S[:, None] * z_B[None, :]
    return total_SB


def quadratic_kernel(x_Sn: Floats, z_Bn: Floats) -> Floats:
    """``K(x, z) = (x·z)²`` of every pair of rows: float32 ``(S, B)``."""
    return np.square(linear_kernel(x_Sn, z_Bn))


KERNELS: dict[str, Kernel] = {"linear": linear_kernel, "quadratic": quadratic_kernel}
_LARGEST_TABLE = 1 << 26


class LinearParameters(NamedTuple):
    """``w`` float32 (n,) and ``b``."""

    w: Floats
    b: np.float32


class Perceptron(Learner[LinearParameters]):
    """Predicts ``w·x + b > 0``; on a mistake ``w ← w + y x`` and ``b ← b + y``, with y = ±1."""

    def __init__(self, features: int) -> None:
        self.features = features

    def initial(self, examples: Examples) -> LinearParameters:
        """Zeros."""
        return LinearParameters(np.zeros(self.features, np.float32), np.float32(0))

    def predict(self, parameters: LinearParameters, x_Bn: Floats) -> Booleans:
        """``((w_1 x_1 + w_2 x_2) + …) + b > 0``, labels (B,)."""
        self.check(x_Bn)
        return ordered_sum(parameters.w[:, None] * x_Bn.T) + parameters.b > 0

    def mistaken(self, parameters: LinearParameters, examples: Examples, index: int) -> LinearParameters:
        """``w + y x`` and ``b + y``."""
        y = np.float32(1 if examples.label[index] else -1)
        return LinearParameters(parameters.w + y * examples.x[index], np.float32(parameters.b + y))

    def bits(self, m: int) -> int:
        """``32 n + 32``."""
        return 32 * self.features + 32


class SupportParameters(NamedTuple):
    """Support vectors: ``x`` float32 (S, n), ``label`` bool (S,), ``weight`` float32 (S,); and ``mistakes`` so far."""

    x: Floats
    label: Booleans
    weight: Floats
    mistakes: np.float32 = np.float32(0)


class _KernelLearner(Learner[SupportParameters]):
    """Predicts ``Σ_i (y_i a_i) K(x_i, x) > 0`` over its support vectors, in their order."""

    def __init__(self, features: int, kernel: str = "linear") -> None:
        self.features, self.kernel = features, KERNELS[kernel]

    def predict(self, parameters: SupportParameters, x_Bn: Floats) -> Booleans:
        """``Σ_i (y_i a_i) K(x_i, x) > 0``, labels (B,)."""
        self.check(x_Bn)
        active = np.flatnonzero(parameters.weight)  # a term that is 0 changes no sum
        signed_S = _signs(parameters.label[active]) * parameters.weight[active]
        return ordered_sum(signed_S[:, None] * self.kernel(parameters.x[active], x_Bn)) > 0


class KernelPerceptron(_KernelLearner):
    """The training set supports; on a mistake the weight of the example grows by 1.

    The training set is a parameter, so that the union bound is vacuous for every m.
    """

    def initial(self, examples: Examples) -> SupportParameters:
        """The training set with weights 0."""
        return SupportParameters(examples.x, examples.label, np.zeros(len(examples), np.float32))

    def block_predictor(self, examples: Examples) -> Callable[[SupportParameters, int, int], Booleans]:
        """As of any learner, from a table of the kernel of every pair of examples if 2^26 numbers hold it."""
        if len(examples) ** 2 > _LARGEST_TABLE:
            return super().block_predictor(examples)
        table, y_m = self.kernel(examples.x, examples.x), _signs(examples.label)

        def predict(parameters: SupportParameters, start: int, stop: int) -> Booleans:
            """The labels of a block."""
            active = np.flatnonzero(parameters.weight)
            return ordered_sum((y_m[active] * parameters.weight[active])[:, None] * table[active, start:stop]) > 0

        return predict

    def mistaken(self, parameters: SupportParameters, examples: Examples, index: int) -> SupportParameters:
        """One more mistake on this example."""
        weight = parameters.weight.copy()
        weight[index] += 1
        return parameters._replace(weight=weight)

    def bits(self, m: int) -> int:
        """``32 m n + 32 m``."""
        return 32 * m * self.features + 32 * m

    def state(self, parameters: SupportParameters) -> bytes:
        """The bytes of the weights, which alone change."""
        return parameters.weight.tobytes()


class _BoundedKernelLearner(_KernelLearner):
    """A fixed number of places for support vectors, the newest first; the oldest is dropped.

    It begins with vectors of zeros labelled false, which add nothing to a linear or quadratic kernel.
    """

    others: str  # the name of the number of places, less one

    def __init__(self, features: int, others: int, kernel: str = "linear") -> None:
        if others < 0:
            raise ArgumentError(f"{self.others}: {others}, expected at least 0")
        super().__init__(features, kernel)
        self.places = others + 1

    def initial(self, examples: Examples) -> SupportParameters:
        """Vectors of zeros with weight 0."""
        x_Sn = np.zeros((self.places, self.features), np.float32)
        return SupportParameters(x_Sn, np.zeros(self.places, np.bool_), np.zeros(self.places, np.float32))

    def entered(self, parameters: SupportParameters, examples: Examples, index: int) -> SupportParameters:
        """Example number ``index`` in the first place, with weight 1."""
        x_Sn, label_S, weight_S, mistakes = parameters
        one = slice(index, index + 1)
        return SupportParameters(
            np.concatenate((examples.x[one], x_Sn[:-1])),
            np.concatenate((examples.label[one], label_S[:-1])),
            np.concatenate((np.ones(1, np.float32), weight_S[:-1])),
            mistakes,
        )


class BudgetKernelPerceptron(_BoundedKernelLearner):
    """On a mistake: where x is a support vector already its weight grows by 1, else (x, y) enters with weight 1."""

    others = "budget"

    def mistaken(self, parameters: SupportParameters, examples: Examples, index: int) -> SupportParameters:
        """One more weight on the support vector, or a new one."""
        same_S = (parameters.x == examples.x[index]).all(1)
        if same_S.any():
            return parameters._replace(weight=parameters.weight + same_S.astype(np.float32))
        return self.entered(parameters, examples, index)

    def bits(self, m: int) -> int:
        """``(budget + 1)(33 + 32 n)``."""
        return self.places * (33 + 32 * self.features)


class DescriptionKernelPerceptron(_BoundedKernelLearner):
    """On a mistake: nothing once ``limit`` mistakes were counted, else the count grows and (x, y) enters.

    Weights are 1 and no parameters.
    """

    others = "description"

    def __init__(self, features: int, description: int, limit: float, kernel: str = "linear") -> None:
        super().__init__(features, description, kernel)
        self.limit = np.float32(limit)

    def mistaken(self, parameters: SupportParameters, examples: Examples, index: int) -> SupportParameters:
        """A new support vector, unless the limit is reached."""
        if parameters.mistakes == self.limit:
            return parameters
        return self.entered(parameters, examples, index)._replace(mistakes=parameters.mistakes + np.float32(1))

    def bits(self, m: int) -> int:
        """``32 + (1 + 32 n)(description + 1)``."""
        return 32 + (1 + 32 * self.features) * self.places


def _signs(label: Booleans) -> Floats:
    return np.where(label, np.float32(1), np.float32(-1))
