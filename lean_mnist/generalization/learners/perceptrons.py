"""MLCERT's perceptron (Rosenblatt, 1958) and kernel perceptrons (Aizerman, Braverman and Rozonoer, 1964).

Each learns from one mistake after another. Everything is float32 and every sum runs in the stated order, so that a
result is the same on every machine: a mistake decided by the last bit of a sum changes all that is learnt after it.

Shapes: ``m`` training examples, ``n`` features, ``B`` examples to predict, ``S`` support vectors.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import ArgumentError

Booleans = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Kernel = Callable[[Floats, Floats], Floats]

_FIRST_BLOCK = 16
_LARGEST_TABLE = 1 << 26
_MOST_PLACES = 10**6  # for support vectors


@dataclass(frozen=True, eq=False)
class Examples:
    """``x`` float32 (m, n), finite, and ``label`` bool (m,), in the order in which a learner sees them."""

    x: Floats
    label: Booleans

    def __len__(self) -> int:
        return len(self.x)


class Learner(ABC):
    """A rule that predicts a label from parameters, and that changes the parameters where it was wrong.

    What is learnt is defined by taking one example after another; :meth:`learn` computes the same, bit for bit, but
    finds the mistakes in blocks. An epoch is a function of the parameters alone, so once parameters come back, all that
    follows is known, and :meth:`learn` skips the rounds between.
    """

    features: int  # n, of each example

    @abstractmethod
    def initial(self, examples: Examples) -> Any:
        """The parameters before anything was learnt; ``examples`` are those that it will learn from."""

    @abstractmethod
    def predict(self, parameters: Any, x_Bn: Floats) -> Booleans:
        """The labels (B,) of float32 ``x (B, n)``."""

    @abstractmethod
    def mistaken(self, parameters: Any, examples: Examples, index: int) -> Any:
        """The parameters after example number ``index`` was predicted wrongly."""

    @abstractmethod
    def bits(self, m: int) -> int:
        """The size of the parameters learnt from ``m`` examples: there are at most 2^bits of them."""

    def state(self, parameters: Any) -> bytes:
        """The parameters, a tuple of arrays, as bytes that are equal where the parameters are."""
        return b"".join(np.asarray(part).tobytes() for part in parameters)

    def learn(self, examples: Examples, epochs: int) -> tuple[Any, int]:
        """The parameters after ``epochs`` passes over ``examples``, and how many passes had to be computed.

        Raises ``ArgumentError`` for fewer than 0 epochs or examples with another number of features.
        """
        if epochs < 0:
            raise ArgumentError(f"epochs: {epochs}, expected at least 0")
        self.check(examples.x)
        parameters, predict = self.initial(examples), self.block_predictor(examples)
        seen: dict[bytes, int] = {hashlib.sha256(self.state(parameters)).digest(): 0}
        done = computed = 0
        while done < epochs:
            parameters = self._epoch(parameters, examples, predict)
            done, computed = done + 1, computed + 1
            key = hashlib.sha256(self.state(parameters)).digest()
            if key in seen:  # the parameters repeat: leave out whole rounds
                period = done - seen[key]
                done = epochs - (epochs - done) % period
                seen = {}
            seen[key] = done
        return parameters, computed

    def block_predictor(self, examples: Examples) -> Callable[[Any, int, int], Booleans]:
        """A function ``(parameters, start, stop)`` that predicts a block of ``examples`` as :meth:`predict` does."""
        return lambda parameters, start, stop: self.predict(parameters, examples.x[start:stop])

    def _epoch(self, parameters: Any, examples: Examples, predict: Callable[[Any, int, int], Booleans]) -> Any:
        """One pass over ``examples``, in order."""
        start, width, m = 0, _FIRST_BLOCK, len(examples)
        while start < m:
            stop = min(start + width, m)
            wrong = predict(parameters, start, stop) != examples.label[start:stop]
            first = int(wrong.argmax())
            if wrong[first]:
                parameters = self.mistaken(parameters, examples, start + first)
                start, width = start + first + 1, max(1, min(width, 2 * first + 1))
            else:
                start, width = stop, 2 * width
        return parameters

    def check(self, x_Bn: Floats) -> None:
        """Raise ``ArgumentError`` unless ``x`` is float32 (B, n) with this learner's number of features."""
        if x_Bn.ndim != 2 or x_Bn.shape[1] != self.features or x_Bn.dtype != np.float32:
            found = f"{x_Bn.dtype} of shape {x_Bn.shape}"
            raise ArgumentError(f"x: {found}, expected float32 of shape (B, {self.features})")


def correct(learner: Learner, parameters: Any, examples: Examples) -> int:
    """The number of ``examples`` that are predicted rightly."""
    return int((learner.predict(parameters, examples.x) == examples.label).sum())


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


class LinearParameters(NamedTuple):
    """``w`` float32 (n,) and ``b``."""

    w: Floats
    b: np.float32


class Perceptron(Learner):
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


class _KernelLearner(Learner):
    """Predicts ``Σ_i (y_i a_i) K(x_i, x) > 0`` over its support vectors, in their order."""

    def __init__(self, features: int, kernel: str = "linear") -> None:
        self.features, self.kernel = features, KERNELS[kernel]

    def predict(self, parameters: SupportParameters, x_Bn: Floats) -> Booleans:
        self.check(x_Bn)
        return _positive(parameters, lambda active: self.kernel(parameters.x[active], x_Bn))


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
        table = self.kernel(examples.x, examples.x)
        return lambda own, start, stop: _positive(own, lambda active: table[active, start:stop])

    def mistaken(self, parameters: SupportParameters, examples: Examples, index: int) -> SupportParameters:
        """One more mistake on this example."""
        weight = parameters.weight.copy()
        weight[index] += 1
        return parameters._replace(weight=weight)

    def bits(self, m: int) -> int:
        """``32 m n + 32 m``."""
        return 32 * m * self.features + 32 * m


class _BoundedKernelLearner(_KernelLearner):
    """A fixed number of places for support vectors, the newest first; the oldest is dropped.

    It begins with vectors of zeros labelled false, which add nothing to a linear or quadratic kernel.
    """

    others: str  # the name of the number of places, less one

    def __init__(self, features: int, others: int, kernel: str = "linear") -> None:
        if not 0 <= others <= _MOST_PLACES:
            raise ArgumentError(f"{self.others}: {others}, expected 0 to {_MOST_PLACES:,}")
        super().__init__(features, kernel)
        self.places = others + 1

    def initial(self, examples: Examples) -> SupportParameters:
        x_Sn = np.zeros((self.places, self.features), np.float32)
        return SupportParameters(x_Sn, np.zeros(self.places, np.bool_), np.zeros(self.places, np.float32))

    def entered(self, parameters: SupportParameters, examples: Examples, index: int) -> SupportParameters:
        """Example number ``index`` in the first place, with weight 1."""
        one = slice(index, index + 1)
        new = examples.x[one], examples.label[one], np.ones(1, np.float32)
        x, label, weight = (np.concatenate((first, old[:-1])) for first, old in zip(new, parameters[:3], strict=True))
        return SupportParameters(x, label, weight, parameters.mistakes)


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
    """On a mistake: nothing once ``limit`` were counted, else (x, y) enters. Weights are 1 and no parameters."""

    others = "description"

    def __init__(self, features: int, description: int, limit: float, kernel: str = "linear") -> None:
        super().__init__(features, description, kernel)
        if not limit >= 0:
            raise ArgumentError(f"limit: {limit}, expected at least 0")
        self.limit = np.float32(limit)

    def mistaken(self, parameters: SupportParameters, examples: Examples, index: int) -> SupportParameters:
        """A new support vector, unless the limit is reached."""
        if parameters.mistakes == self.limit:
            return parameters
        return self.entered(parameters, examples, index)._replace(mistakes=parameters.mistakes + np.float32(1))

    def bits(self, m: int) -> int:
        """``32 + (1 + 32 n)(description + 1)``."""
        return 32 + (1 + 32 * self.features) * self.places


def _positive(parameters: SupportParameters, kernel: Callable[[Any], Floats]) -> Booleans:
    """``Σ_i (y_i a_i) K(x_i, x) > 0``, labels (B,), from the rows of the kernel (S, B) that are asked for."""
    active = np.flatnonzero(parameters.weight)  # a term that is 0 changes no sum
    signed_S = np.where(parameters.label[active], np.float32(1), np.float32(-1)) * parameters.weight[active]
    return ordered_sum(signed_S[:, None] * kernel(active)) > 0
