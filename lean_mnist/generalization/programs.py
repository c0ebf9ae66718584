"""Probabilistic programs on finite distributions: sample, learn, observe; exact probabilities against the theorems.

Every outcome is run through with its exact probability, so that a theorem ``program(1) ≤ right-hand side`` is seen to
hold. ``observe`` keeps the executions in which something happens (here: in which a model fails to generalise) and drops
the others without making up for them, as MLCERT's semantics has it.

    examples ← sample(D, m);  hypothesis ← learn(examples);  observe(its risk is worse than measured by more than ε)

``proofs/generalization/Programs.v`` proves for all finite distributions what is enumerated here for some.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, TypeVar

from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.bounds import BOUNDS, upper_risk
from lean_mnist.generalization.exact import Exact, ball, decide, decimal_text

T = TypeVar("T")
U = TypeVar("U")
X = TypeVar("X")
H = TypeVar("H")

#: Outcomes that one sample may have.
LARGEST_ENUMERATION = 1 << 20


@dataclass(frozen=True)
class Program(Generic[T]):
    """A distribution over results, perhaps of total probability below 1 after an ``observe``.

    ``outcomes`` runs through (result, exact probability); the same result may come more than once.
    """

    outcomes: Callable[[], Iterator[tuple[T, Fraction]]]

    def then(self, following: Callable[[T], Program[U]]) -> Program[U]:
        """First this, then the program that its result gives."""
        return Program(
            lambda: (
                (result, probability * share)
                for value, probability in self.outcomes()
                for result, share in following(value).outcomes()
            )
        )

    def merged(self) -> Program[T]:
        """The same distribution with equal results, which must be hashable, taken together."""
        probabilities: dict[T, Fraction] = {}
        for value, probability in self.outcomes():
            probabilities[value] = probabilities.get(value, Fraction(0)) + probability
        return Program(lambda: iter(probabilities.items()))

    def expected(self, function: Callable[[T], Fraction | int]) -> Fraction:
        """``Σ probability · function(result)``, exactly."""
        return sum((probability * function(value) for value, probability in self.outcomes()), Fraction(0))

    def probability(self) -> Fraction:
        """``expected(1)``: the probability that an execution gets to the end."""
        return self.expected(lambda value: 1)


def unit(value: T) -> Program[T]:
    """The program that always gives ``value``."""
    return Program(lambda: iter([(value, Fraction(1))]))


def observe(condition: Callable[[T], bool], value: T) -> Program[T]:
    """``value`` where the condition holds; else the execution is dropped."""
    return unit(value) if condition(value) else Program(lambda: iter(()))


def finite(probabilities: Mapping[X, Fraction]) -> Program[X]:
    """The program that gives each value with its probability; ``ArgumentError`` unless these sum to 1."""
    total = sum(probabilities.values(), Fraction(0))
    if total != 1 or min(probabilities.values()) < 0:
        raise ArgumentError(f"probabilities: they sum to {total}, expected numbers of at least 0 that sum to 1")
    return Program(lambda: ((value, p) for value, p in probabilities.items() if p))


def sample(distribution: Program[X], m: int) -> Program[tuple[X, ...]]:
    """``m`` independent values, as a tuple. Raises ``ArgumentError`` for m < 1 and for more than 2^20 outcomes."""
    if m < 1:
        raise ArgumentError(f"m: {m}, expected at least 1")
    values = list(distribution.outcomes())
    if m * math.log2(len(values)) > math.log2(LARGEST_ENUMERATION):
        many = f"more than {LARGEST_ENUMERATION:,} outcomes"
        raise ArgumentError(f"m: {m} of {len(values)} values have {many}, expected fewer")

    def outcomes() -> Iterator[tuple[tuple[X, ...], Fraction]]:
        """All tuples, each with its probability."""
        for drawn in itertools.product(values, repeat=m):
            yield tuple(x for x, _ in drawn), math.prod((p for _, p in drawn), start=Fraction(1))

    return Program(outcomes)


@dataclass(frozen=True)
class Experiment(Generic[X, H]):
    """The subject of the theorems: a distribution, a learner, and when a hypothesis is right about an example."""

    distribution: Program[X]
    rule: Callable[[tuple[X, ...]], H]
    right: Callable[[H, X], bool]

    def accuracy(self, hypothesis: H) -> Fraction:
        """The expected accuracy A."""
        return self.distribution.expected(lambda x: int(self.right(hypothesis, x)))

    def empirical(self, hypothesis: H, examples: Sequence[X]) -> Fraction:
        """The empirical accuracy Â."""
        return Fraction(sum(self.right(hypothesis, x) for x in examples), len(examples))

    def main(self, m: int, epsilon: Fraction) -> Program[tuple[H, tuple[X, ...]]]:
        """Learn from m examples and be overrated, ``A + ε < Â``, on them: at most ``2^B exp(−2ε²m)``, for 2^B
        hypotheses."""
        return sample(self.distribution, m).then(
            lambda examples: observe(
                lambda both: self.accuracy(both[0]) + epsilon < self.empirical(*both), (self.rule(examples), examples)
            )
        )

    def holdout(self, m: int, n: int, epsilon: Fraction) -> Program[tuple[H, tuple[X, ...]]]:
        """Learn from m examples and be overrated on n fresh ones: at most ``exp(−2ε²n)``."""
        learnt = sample(self.distribution, m).then(lambda examples: unit(self.rule(examples)))
        return learnt.merged().then(lambda hypothesis: self.fixed(hypothesis, n, epsilon))

    def fixed(self, hypothesis: H, m: int, epsilon: Fraction) -> Program[tuple[H, tuple[X, ...]]]:
        """A given hypothesis is overrated on m examples: at most ``exp(−2ε²m)``."""
        threshold = self.accuracy(hypothesis) + epsilon
        return sample(self.distribution, m).then(
            lambda examples: observe(lambda both: threshold < self.empirical(*both), (hypothesis, examples))
        )


def chernoff_holds(probability: Fraction, m: int, epsilon: Fraction, bits: int = 0) -> bool:
    """Decide ``probability ≤ 2^bits · exp(−2ε²m)`` by enclosed logarithms; raises ``ArgumentError``."""
    if m < 1 or epsilon <= 0 or bits < 0:
        raise ArgumentError(f"m, epsilon, bits: {m}, {epsilon}, {bits}, expected at least 1, above 0, at least 0")
    if probability == 0:
        return True
    return decide(lambda: ball(Fraction(2**bits) / probability).log() - ball(2 * epsilon**2 * m)) is True


def miscoverage(bound: Callable[[int], Fraction], m: int, risk: Fraction) -> Fraction:
    """``Pr[risk > bound(k)]`` for k errors in m examples, ``k ~ Binomial(m, risk)``: exactly, over all m + 1 counts.

    A bound on the risk of confidence 1 − δ is right only if this is at most δ for every risk.
    """
    missed = (k for k in range(m + 1) if risk > bound(k))
    top, rest, below = risk.numerator, risk.denominator - risk.numerator, risk.denominator**m
    return Fraction(sum(math.comb(m, k) * top**k * rest ** (m - k) for k in missed), below)


LabelledInput = tuple[int, int]
LabelTable = tuple[int, ...]


def majority_experiment(inputs: int, ones: Fraction) -> Experiment[LabelledInput, LabelTable]:
    """Inputs 0 … ``inputs`` − 1, uniform; their labels are 1 with probability ``ones``, whatever the input.

    Learnt is the label seen most often with each input, 0 if none: one of 2^inputs hypotheses. Raises
    ``ArgumentError``.
    """
    if inputs < 1 or not 0 <= ones <= 1:
        raise ArgumentError(f"inputs, ones: {inputs}, {ones}, expected at least 1 and a number from 0 to 1")

    def rule(examples: tuple[LabelledInput, ...]) -> LabelTable:
        """The label seen most often with each input."""
        votes = [0] * inputs
        for x, label in examples:
            votes[x] += 1 if label else -1
        return tuple(int(vote > 0) for vote in votes)

    labels = {(x, y): Fraction(1, inputs) * (ones if y else 1 - ones) for x in range(inputs) for y in (0, 1)}
    return Experiment(finite(labels), rule, lambda table, example: table[example[0]] == example[1])


@dataclass(frozen=True)
class EnumeratedClaim:
    """A claim that a probability is at most ``allowed`` (rounded, for people), and whether its exact value is."""

    claim: str
    probability: Fraction
    allowed: float
    holds: bool
    theorem: bool = True  # false for a claim that nobody proved, shown for contrast

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; the exact probability as text."""
        return {**vars(self), "probability": str(self.probability)}

    def __str__(self) -> str:
        verdict = ("holds" if self.holds else "FAILS") if self.theorem else ("holds here" if self.holds else "is false")
        return f"{self.claim:<64} {decimal_text(self.probability, 6, up=True)}  {self.allowed:<10.6f} {verdict}"


def enumerate_theorems(
    experiment: Experiment[LabelledInput, LabelTable], inputs: int, m: int, n: int, epsilon: Fraction
) -> list[EnumeratedClaim]:
    """MLCERT's theorems for ``majority_experiment(inputs, …)``, and the union bound with its union left out.

    ``m`` examples to learn from, ``n`` fresh ones. Raises ``ArgumentError``: impossible numbers, too many outcomes.
    """

    def claim(words: str, probability: Fraction, size: int, bits: int = 0, theorem: bool = True) -> EnumeratedClaim:
        """The claim that a probability is at most ``2^bits exp(−2ε²·size)``."""
        allowed = 2**bits * math.exp(-2 * float(epsilon) ** 2 * size)
        return EnumeratedClaim(words, probability, allowed, chernoff_holds(probability, size, epsilon, bits), theorem)

    fixed, learnt = experiment.fixed((1,) * inputs, m, epsilon), experiment.main(m, epsilon).probability()
    return [
        claim(f"fixed hypothesis, measured on {m}", fixed.probability(), m),
        claim(f"learnt from {m} and measured on them, union over 2^{inputs}", learnt, m, inputs),
        claim(f"learnt from {m} and measured on them, without the union", learnt, m, theorem=False),
        claim(f"learnt from {m}, measured on {n} fresh ones", experiment.holdout(m, n, epsilon).probability(), n),
    ]


def enumerate_bounds(m: int, delta: Exact) -> list[EnumeratedClaim]:
    """The largest probability, over 99 true risks, that each bound from ``m`` examples lies below the risk."""
    risks, claims = [Fraction(k, 100) for k in range(1, 100)], []
    for bound in BOUNDS:
        table = [upper_risk(bound, k, m, delta) for k in range(m + 1)]
        worst = max(miscoverage(table.__getitem__, m, risk) for risk in risks)
        claim, allowed = f"risk above the {bound} bound from {m}, at worst", Fraction(delta)
        claims.append(EnumeratedClaim(claim, worst, float(allowed), worst <= allowed))
    return claims
