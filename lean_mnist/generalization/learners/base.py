"""The interface of learners: predict, update, learn, and the size of the parameters in bits."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import ArgumentError

P = TypeVar("P", bound=tuple[Any, ...])

Booleans = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_FIRST_BLOCK = 16


@dataclass(frozen=True, eq=False)
class Examples:
    """``x`` float32 (m, n), finite, and ``label`` bool (m,), in the order in which a learner sees them."""

    x: Floats
    label: Booleans

    def __len__(self) -> int:
        return len(self.x)


class Learner(ABC, Generic[P]):
    """A rule that predicts a label from parameters, and that changes the parameters where it was wrong.

    What is learnt is defined by taking one example after another; :meth:`learn` computes the same, bit for bit, but
    finds the mistakes in blocks. An epoch is a function of the parameters alone, so once parameters come back, all that
    follows is known, and :meth:`learn` skips the rounds between.
    """

    features: int  # n, of each example

    @abstractmethod
    def initial(self, examples: Examples) -> P:
        """The parameters before anything was learnt; ``examples`` are those that it will learn from."""

    @abstractmethod
    def predict(self, parameters: P, x_Bn: Floats) -> Booleans:
        """The labels (B,) of float32 ``x (B, n)``."""

    @abstractmethod
    def mistaken(self, parameters: P, examples: Examples, index: int) -> P:
        """The parameters after example number ``index`` was predicted wrongly."""

    @abstractmethod
    def bits(self, m: int) -> int:
        """The size of the parameters learnt from ``m`` examples: there are at most 2^bits of them."""

    def state(self, parameters: P) -> bytes:
        """The parameters, a tuple of arrays, as bytes that are equal where the parameters are."""
        return b"".join(np.asarray(part).tobytes() for part in parameters)

    def learn(self, examples: Examples, epochs: int) -> tuple[P, int]:
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

    def block_predictor(self, examples: Examples) -> Callable[[P, int, int], Booleans]:
        """A function ``(parameters, start, stop)`` that predicts a block of ``examples`` as :meth:`predict` does."""
        return lambda parameters, start, stop: self.predict(parameters, examples.x[start:stop])

    def _epoch(self, parameters: P, examples: Examples, predict: Callable[[P, int, int], Booleans]) -> P:
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


def correct(learner: Learner[P], parameters: P, examples: Examples) -> int:
    """The number of ``examples`` that are predicted rightly."""
    return int((learner.predict(parameters, examples.x) == examples.label).sum())
