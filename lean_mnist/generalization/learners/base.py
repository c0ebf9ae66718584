"""What a learner is: predict, update, learn; and the facts about its size that a bound needs."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.learners.sums import Floats

P = TypeVar("P")

Booleans = npt.NDArray[np.bool_]

# 693147 / 10^6 < ln 2: a bound said to be vacuous is so.
_LN_2_BELOW = Fraction(693_147, 1_000_000)


@dataclass(frozen=True, eq=False)
class Examples:
    """``x`` float32 (m, n) and ``label`` bool (m,), in the order in which a learner sees them.

    Raises ``ArgumentError`` for another dtype or shape, and for a feature that is not finite.
    """

    x: Floats
    label: Booleans

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.x.dtype != np.float32:
            raise ArgumentError(f"x: {self.x.dtype} of shape {self.x.shape}, expected float32 of shape (m, n)")
        if self.label.shape != self.x.shape[:1] or self.label.dtype != np.bool_:
            raise ArgumentError(
                f"label: {self.label.dtype} of shape {self.label.shape}, expected bool of shape ({len(self.x)},)"
            )
        wrong = ~np.isfinite(self.x).all(1)
        if wrong.any():
            raise ArgumentError(
                f"x: row {int(wrong.argmax())} holds {self.x[wrong][0].tolist()}, expected finite numbers"
            )

    def __len__(self) -> int:
        return len(self.x)


class Learner(ABC, Generic[P]):
    """A rule that predicts a label from parameters, and that changes the parameters where it was wrong.

    :meth:`update` on one example after another defines what is learnt; :meth:`learn` computes the same, bit for bit,
    but finds the mistakes in blocks. An epoch is a function of the parameters alone, so once parameters come back, all
    that follows is known, and :meth:`learn` skips the rounds between.
    """

    features: int  # n, of each example

    @abstractmethod
    def initial(self, examples: Examples) -> P:
        """The parameters before anything was learnt; ``examples`` are those that it will learn from."""

    @abstractmethod
    def predict(self, parameters: P, x_Bn: Floats) -> Booleans:
        """The labels (B,) of float32 ``x (B, n)``."""

    @abstractmethod
    def update(self, parameters: P, examples: Examples, index: int) -> P:
        """The parameters after example number ``index``: unchanged if it is predicted rightly."""

    @abstractmethod
    def bits(self, m: int) -> int:
        """How many bits the parameters have, learnt from ``m`` examples: there are at most 2^bits of them."""

    @abstractmethod
    def state(self, parameters: P) -> bytes:
        """The parameters as bytes; equal where the parameters are."""

    def epoch(self, parameters: P, examples: Examples) -> P:
        """One pass over ``examples``, in order, by :meth:`update`; subclasses find the mistakes faster."""
        for index in range(len(examples)):
            parameters = self.update(parameters, examples, index)
        return parameters

    def learn(
        self, examples: Examples, epochs: int, parameters: P | None = None, report: Callable[[int], None] | None = None
    ) -> P:
        """The parameters after ``epochs`` passes over ``examples``, from ``parameters`` or :meth:`initial`.

        ``report`` is told the number of passes that were computed rather than known from an earlier one. Raises
        ``ArgumentError`` for fewer than 0 epochs or examples with another number of features.
        """
        if epochs < 0:
            raise ArgumentError(f"epochs: {epochs}, expected at least 0")
        self.check(examples.x)
        if parameters is None:
            parameters = self.initial(examples)
        walk = self.walker(examples)
        seen: dict[bytes, int] = {hashlib.sha256(self.state(parameters)).digest(): 0}
        done = computed = 0
        while done < epochs:
            parameters = walk(parameters)
            done, computed = done + 1, computed + 1
            key = hashlib.sha256(self.state(parameters)).digest()
            if key in seen:  # it goes round: leave out whole rounds
                period = done - seen[key]
                done = epochs - (epochs - done) % period
                seen = {}
            seen[key] = done
        if report is not None:
            report(computed)
        return parameters

    def walker(self, examples: Examples) -> Callable[[P], P]:
        """One epoch over ``examples`` as a function of the parameters; what they have in common is computed once."""
        return lambda parameters: self.epoch(parameters, examples)

    def check(self, x_Bn: Floats) -> None:
        """Raise ``ArgumentError`` unless ``x`` is float32 (B, n) with this learner's number of features."""
        if x_Bn.ndim != 2 or x_Bn.shape[1] != self.features or x_Bn.dtype != np.float32:
            raise ArgumentError(
                f"x: {x_Bn.dtype} of shape {x_Bn.shape}, expected float32 of shape (B, {self.features})"
            )


class Oracle(Learner[P]):
    """Parameters that were learnt elsewhere: it predicts with them and never changes them.

    ``bits`` is the size of the hypothesis space that they come from, which must have been fixed before the data.
    """

    def __init__(self, parameters: P, predict: Callable[[P, Floats], Booleans], features: int, bits: int) -> None:
        self.parameters, self.rule, self.features, self.size = parameters, predict, features, bits

    def initial(self, examples: Examples) -> P:
        return self.parameters

    def predict(self, parameters: P, x_Bn: Floats) -> Booleans:
        return self.rule(parameters, x_Bn)

    def update(self, parameters: P, examples: Examples, index: int) -> P:
        return self.parameters

    def bits(self, m: int) -> int:
        return self.size

    def state(self, parameters: P) -> bytes:
        return b""

    def epoch(self, parameters: P, examples: Examples) -> P:
        return self.parameters


def correct(learner: Learner[P], parameters: P, examples: Examples) -> int:
    """How many of ``examples`` are predicted rightly."""
    return int((learner.predict(parameters, examples.x) == examples.label).sum())


def accuracy(learner: Learner[P], parameters: P, examples: Examples) -> Fraction:
    """The share of ``examples`` predicted rightly, exactly; ``ArgumentError`` if there are none."""
    if len(examples) == 0:
        raise ArgumentError("examples: none, expected at least 1")
    return Fraction(correct(learner, parameters, examples), len(examples))


def is_vacuous(bits: int, m: int) -> bool:
    """Whether ``ε = √((B ln 2 + ln(1/δ)) / 2m)``, the union bound, is at least 1 whatever δ ≤ 1 is.

    For a kernel perceptron it is so for every m, because its B grows with m: say that, and print no number.
    """
    if bits < 0 or m < 1:
        raise ArgumentError(f"bits, m: {bits}, {m}, expected at least 0 and 1")
    return bits * _LN_2_BELOW >= 2 * m
