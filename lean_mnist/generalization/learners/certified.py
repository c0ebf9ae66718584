"""What the union bound says of a learner, or that it says nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.learners.base import Learner
from lean_mnist.generalization.solve import certified_risk


@dataclass(frozen=True)
class UnionBound:
    """With confidence 1 − δ the risk is at most ``risk``; ``None`` where the bound says nothing."""

    bound: str
    errors: int
    examples: int
    bits: int
    delta: Fraction
    risk: Fraction | None

    def __str__(self) -> str:
        size = f"{self.errors} errors in {self.examples:,} examples, {self.bits:,} bits of parameters"
        if self.risk is None:
            return f"{size}: the union bound says nothing"
        percent = math.ceil(self.risk * 10_000) / 100  # outward
        return f"{size}: risk at most {percent:.2f} %, with probability of failure {self.delta} ({self.bound}, union)"


def union_bound(
    learner: Learner[Any], errors: int, examples: int, delta: Fraction | int | str, bound: str = "kl"
) -> UnionBound:
    """The bound for parameters that ``learner`` learnt from the very examples on which it now makes ``errors``.

    It holds for all 2^B parameters at once, B = ``learner.bits(examples)``. For a kernel perceptron it says nothing,
    however many examples there are. Raises ``BoundError`` for impossible numbers.
    """
    if isinstance(delta, float):
        raise ArgumentError(f"delta: the float {delta}, expected a Fraction or text, which are exact")
    bits = learner.bits(examples)
    # With 64 bits an example every bound leaves 1 − p ≤ 2^−64, which no decimal of 12 digits tells from 0.
    risk = certified_risk(bound, errors, examples, delta, min(bits, 64 * examples))
    return UnionBound(bound, errors, examples, bits, Fraction(delta), risk if risk < 1 else None)
