"""Probabilistic programs on finite distributions: sample, learn, observe; exact probabilities against the theorems.

Every outcome is run through with its exact probability, so that a theorem "probability ≤ right-hand side" is seen to
hold. ``observe`` drops executions without making up for them, as MLCERT's semantics has it:

    examples ← sample(D, m);  hypothesis ← learn(examples);  observe(its risk is worse than measured by more than ε)

``proofs/generalization/Programs.v`` proves for all finite distributions what is enumerated here for some.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, TypeVar

from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.bounds import BOUNDS, upper_risk
from lean_mnist.generalization.exact import Exact, ball, decide, decimal_text
from lean_mnist.reading.text import printable

X = TypeVar("X")
H = TypeVar("H")

#: Outcomes that one sample may have.
LARGEST_ENUMERATION = 1 << 20
_MOST_INPUTS = 1000  # so that a float holds the number of their hypotheses


def finite(probabilities: Mapping[X, Fraction]) -> dict[X, Fraction]:
    """The distribution with these probabilities, without zeros; ``ArgumentError`` unless they sum to 1."""
    total = sum(probabilities.values(), Fraction(0))
    if total != 1 or min(probabilities.values()) < 0:
        raise ArgumentError(f"probabilities: they sum to {total}, expected numbers of at least 0 that sum to 1")
    return {value: p for value, p in probabilities.items() if p}


def sample(distribution: Mapping[X, Fraction], m: int) -> Iterator[tuple[tuple[X, ...], Fraction]]:
    """Every outcome of ``m`` independent draws, with its probability.

    Raises ``ArgumentError`` for m < 1 and for more than 2^20 outcomes.
    """
    if m < 1:
        raise ArgumentError(f"m: {m}, expected at least 1")
    if m * math.log2(len(distribution)) > math.log2(LARGEST_ENUMERATION):
        many = f"more than {LARGEST_ENUMERATION:,} outcomes"
        raise ArgumentError(f"m: {m} of {len(distribution)} values have {many}, expected fewer")
    outcomes = itertools.product(distribution, repeat=m)
    return ((drawn, math.prod((distribution[x] for x in drawn), start=Fraction(1))) for drawn in outcomes)


@dataclass(frozen=True)
class Experiment(Generic[X, H]):
    """The subject of the theorems: a distribution, a learner, and when a hypothesis is right about an example.

    A hypothesis is *overrated* where its accuracy A and empirical accuracy Â have ``A + ε < Â``.
    """

    distribution: Mapping[X, Fraction]
    rule: Callable[[tuple[X, ...]], H]
    right: Callable[[H, X], bool]

    def _overrated(self, hypothesis: H, epsilon: Fraction) -> Callable[[tuple[X, ...]], bool]:
        """Decide of some examples whether ``hypothesis`` is overrated on them."""
        accuracy = sum((p for x, p in self.distribution.items() if self.right(hypothesis, x)), Fraction(0))
        return lambda drawn: accuracy + epsilon < Fraction(sum(self.right(hypothesis, x) for x in drawn), len(drawn))

    def main(self, m: int, epsilon: Fraction) -> Fraction:
        """Learn from m examples and be overrated on them: at most ``2^B exp(−2ε²m)``, for 2^B hypotheses."""
        observed = (p for x, p in sample(self.distribution, m) if self._overrated(self.rule(x), epsilon)(x))
        return sum(observed, Fraction(0))

    def holdout(self, m: int, n: int, epsilon: Fraction) -> Fraction:
        """Learn from m examples and be overrated on n fresh ones: at most ``exp(−2ε²n)``."""
        learnt: defaultdict[H, Fraction] = defaultdict(Fraction)
        for drawn, p in sample(self.distribution, m):
            learnt[self.rule(drawn)] += p
        return sum((p * self.fixed(hypothesis, n, epsilon) for hypothesis, p in learnt.items()), Fraction(0))

    def fixed(self, hypothesis: H, m: int, epsilon: Fraction) -> Fraction:
        """A given hypothesis is overrated on m examples: at most ``exp(−2ε²m)``."""
        overrated = self._overrated(hypothesis, epsilon)
        return sum((p for drawn, p in sample(self.distribution, m) if overrated(drawn)), Fraction(0))


def chernoff_holds(probability: Fraction, m: int, epsilon: Fraction, bits: int = 0) -> bool:
    """Decide ``probability ≤ 2^bits · exp(−2ε²m)`` by enclosed logarithms; raises ``ArgumentError``."""
    if m < 1 or not 0 < epsilon <= 1 or bits < 0:
        expected = "expected at least 1, above 0 and at most 1, at least 0"
        raise ArgumentError(f"m, epsilon, bits: {m}, {printable(epsilon, 40)}, {bits}, {expected}")
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
    if not 1 <= inputs <= _MOST_INPUTS or not 0 <= ones <= 1:
        expected = f"expected 1 to {_MOST_INPUTS:,} and a number from 0 to 1"
        raise ArgumentError(f"inputs, ones: {inputs}, {printable(ones, 40)}, {expected}")

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
        holds = chernoff_holds(probability, size, epsilon, bits)
        return EnumeratedClaim(words, probability, 2**bits * math.exp(-2 * float(epsilon) ** 2 * size), holds, theorem)

    fixed, learnt = experiment.fixed((1,) * inputs, m, epsilon), experiment.main(m, epsilon)
    return [
        claim(f"fixed hypothesis, measured on {m}", fixed, m),
        claim(f"learnt from {m} and measured on them, union over 2^{inputs}", learnt, m, inputs),
        claim(f"learnt from {m} and measured on them, without the union", learnt, m, theorem=False),
        claim(f"learnt from {m}, measured on {n} fresh ones", experiment.holdout(m, n, epsilon), n),
    ]


def enumerate_bounds(m: int, delta: Exact) -> list[EnumeratedClaim]:
    """The largest probability, over 99 true risks, that each bound from ``m`` examples lies below the risk."""
    risks, claims = [Fraction(k, 100) for k in range(1, 100)], []
    for bound in BOUNDS:
        table = [upper_risk(bound, k, m, delta) for k in range(max(m, 0) + 1)]
        worst = max(miscoverage(table.__getitem__, m, risk) for risk in risks)
        claim, allowed = f"risk above the {bound} bound from {m}, at worst", Fraction(delta)
        claims.append(EnumeratedClaim(claim, worst, float(allowed), worst <= allowed))
    return claims
