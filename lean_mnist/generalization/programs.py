"""Probabilistic programs: sample, learn, observe; and what the theorems promise of them, counted.

A program denotes the expected value of a function over its results. Those over a finite distribution can be run through
completely, every outcome with its exact probability, so that a theorem ``program(1) ≤ right-hand side`` can be seen to
hold; any program can also be simulated. ``observe`` keeps the executions in which something happens (here: in which a
model fails to generalise) and drops the others without making up for them, as MLCERT's semantics has it.

    examples ← sample(D, m);  parameters ← learn(examples);  observe(risk is worse than measured by more than ε)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, TypeVar

import numpy as np

from lean_mnist.errors import ArgumentError

T = TypeVar("T")
U = TypeVar("U")
X = TypeVar("X")
H = TypeVar("H")

#: Outcomes that one exact computation may run through.
LARGEST_ENUMERATION = 1 << 22


class Program(Generic[T]):
    """A distribution over results, perhaps of total probability below 1 after an ``observe``.

    ``outcomes`` runs through (result, exact probability); the same result may come more than once. ``draw`` makes one
    execution from random numbers, ``None`` where it was dropped, else a one-tuple.
    """

    def __init__(
        self,
        outcomes: Callable[[], Iterator[tuple[T, Fraction]]],
        draw: Callable[[np.random.Generator], tuple[T] | None],
    ) -> None:
        self.outcomes, self.draw = outcomes, draw

    def then(self, following: Callable[[T], Program[U]]) -> Program[U]:
        """First this, then the program that its result gives."""

        def outcomes() -> Iterator[tuple[U, Fraction]]:
            for value, probability in self.outcomes():
                for result, share in following(value).outcomes():
                    yield result, probability * share

        def draw(random: np.random.Generator) -> tuple[U] | None:
            drawn = self.draw(random)
            return None if drawn is None else following(drawn[0]).draw(random)

        return Program(outcomes, draw)

    def expected(self, function: Callable[[T], Fraction | int]) -> Fraction:
        """``Σ probability · function(result)``, exactly. Raises ``ArgumentError`` after 2^22 outcomes."""
        total = Fraction(0)
        for number, (value, probability) in enumerate(self.outcomes()):
            if number == LARGEST_ENUMERATION:
                raise ArgumentError(f"program: more than {LARGEST_ENUMERATION:,} outcomes, expected fewer; simulate it")
            total += probability * function(value)
        return total

    def probability(self) -> Fraction:
        """``expected(1)``: how often an execution gets to the end."""
        return self.expected(lambda value: 1)

    def simulate(self, runs: int, seed: int) -> int:
        """How many of ``runs`` executions got to the end."""
        random = np.random.default_rng(seed)
        return sum(self.draw(random) is not None for _ in range(runs))


def unit(value: T) -> Program[T]:
    """The program that always gives ``value``."""
    return Program(lambda: iter([(value, Fraction(1))]), lambda random: (value,))


@dataclass(frozen=True)
class Finite(Generic[X]):
    """A distribution over finitely many values, its probabilities exact; ``ArgumentError`` unless they sum to 1."""

    probabilities: Mapping[X, Fraction]

    def __post_init__(self) -> None:
        total = sum(self.probabilities.values(), Fraction(0))
        if total != 1 or any(probability < 0 for probability in self.probabilities.values()):
            raise ArgumentError(f"probabilities: they sum to {total}, expected numbers of at least 0 that sum to 1")

    def mean(self, function: Callable[[X], Fraction | int]) -> Fraction:
        """``Σ D(x) · function(x)``."""
        return sum((p * function(x) for x, p in self.probabilities.items()), Fraction(0))


def _sample_finite(distribution: Finite[X], m: int) -> Program[tuple[X, ...]]:
    values = [(x, p) for x, p in distribution.probabilities.items() if p]
    edges = np.cumsum([float(p) for _, p in values])

    def outcomes() -> Iterator[tuple[tuple[X, ...], Fraction]]:
        for drawn in itertools.product(values, repeat=m):
            yield tuple(x for x, _ in drawn), math.prod((p for _, p in drawn), start=Fraction(1))

    def draw(random: np.random.Generator) -> tuple[tuple[X, ...]]:
        places = np.searchsorted(edges, random.random(m) * edges[-1], side="right")
        return (tuple(values[place][0] for place in np.minimum(places, len(values) - 1)),)

    return Program(outcomes, draw)


@dataclass(frozen=True)
class Sampled(Generic[X]):
    """A distribution that one can draw from but not run through: ``draw_one`` makes a value from random numbers."""

    draw_one: Callable[[np.random.Generator], X]


def _refuse() -> Iterator[Any]:
    raise ArgumentError("program: draws from a distribution that is not finite, expected a finite one; simulate it")


def sample(distribution: Finite[X] | Sampled[X], m: int) -> Program[tuple[X, ...]]:
    """``m`` independent values, as a tuple. Of a :class:`Sampled` distribution the program can only be simulated."""
    if m < 1:
        raise ArgumentError(f"m: {m}, expected at least 1")
    if isinstance(distribution, Sampled):
        one = distribution.draw_one
        return Program(_refuse, lambda random: (tuple(one(random) for _ in range(m)),))
    return _sample_finite(distribution, m)


def learn(rule: Callable[[tuple[X, ...]], H], examples: tuple[X, ...]) -> Program[H]:
    """The hypothesis that ``rule`` learns from ``examples``; a random learner is a program of its own."""
    return unit(rule(examples))


def observe(condition: Callable[[T], bool], value: T) -> Program[T]:
    """``value`` where the condition holds; else the execution is dropped."""
    if condition(value):
        return unit(value)
    return Program(lambda: iter(()), lambda random: None)


@dataclass(frozen=True)
class Experiment(Generic[X, H]):
    """What the theorems speak of: a distribution, a learner and when a hypothesis is right about an example.

    ``known_accuracy`` gives the expected accuracy of a hypothesis where the distribution is not finite.
    """

    distribution: Finite[X] | Sampled[X]
    rule: Callable[[tuple[X, ...]], H]
    right: Callable[[H, X], bool]
    known_accuracy: Callable[[H], Fraction] | None = None

    def accuracy(self, hypothesis: H) -> Fraction:
        """The expected accuracy A; ``ArgumentError`` where it is neither known nor can be summed up."""
        if self.known_accuracy is not None:
            return self.known_accuracy(hypothesis)
        if isinstance(self.distribution, Sampled):
            raise ArgumentError("known_accuracy: none, expected it for a distribution that is not finite")
        return self.distribution.mean(lambda x: int(self.right(hypothesis, x)))

    def empirical(self, hypothesis: H, examples: Sequence[X]) -> Fraction:
        """The empirical accuracy Â."""
        return Fraction(sum(self.right(hypothesis, x) for x in examples), len(examples))

    def overrated(self, epsilon: Fraction, hypothesis: H, examples: Sequence[X]) -> bool:
        """``A + ε < Â``: the model fails to generalise."""
        return self.accuracy(hypothesis) + epsilon < self.empirical(hypothesis, examples)

    def main(self, m: int, epsilon: Fraction) -> Program[tuple[H, tuple[X, ...]]]:
        """Learn from m examples and be overrated on them: at most ``2^B exp(−2ε²m)``, for 2^B hypotheses."""
        return sample(self.distribution, m).then(
            lambda examples: learn(self.rule, examples).then(
                lambda hypothesis: observe(lambda both: self.overrated(epsilon, *both), (hypothesis, examples))
            )
        )

    def holdout(self, m: int, n: int, epsilon: Fraction) -> Program[tuple[H, tuple[X, ...]]]:
        """Learn from m examples and be overrated on n fresh ones: at most ``exp(−2ε²n)``."""
        return sample(self.distribution, m).then(
            lambda examples: learn(self.rule, examples).then(
                lambda hypothesis: sample(self.distribution, n).then(
                    lambda fresh: observe(lambda both: self.overrated(epsilon, *both), (hypothesis, fresh))
                )
            )
        )

    def fixed(self, hypothesis: H, m: int, epsilon: Fraction) -> Program[tuple[H, tuple[X, ...]]]:
        """A hypothesis from elsewhere is overrated on m examples: at most ``exp(−2ε²m)``."""
        return sample(self.distribution, m).then(
            lambda examples: observe(lambda both: self.overrated(epsilon, *both), (hypothesis, examples))
        )


@dataclass(frozen=True)
class Verdict:
    """A theorem's left-hand side, exactly, and a number that is certainly not above its right-hand side."""

    probability: Fraction
    allowed: Fraction

    @property
    def holds(self) -> bool:
        return self.probability <= self.allowed


def against_chernoff(program: Program[Any], m: int, epsilon: Fraction, bits: int = 0) -> Verdict:
    """Does ``program(1) ≤ 2^bits · exp(−2ε²m)`` hold? Decided in rational numbers."""
    if m < 1 or epsilon <= 0 or bits < 0:
        raise ArgumentError(f"m, epsilon, bits: {m}, {epsilon}, {bits}, expected at least 1, above 0, at least 0")
    return Verdict(program.probability(), (1 << bits) * exp_below(-2 * epsilon**2 * m))


def miscoverage(bound: Callable[[int], Fraction], m: int, risk: Fraction) -> Fraction:
    """``Pr[risk > bound(k)]`` for k errors in m examples, ``k ~ Binomial(m, risk)``: exactly, over all m + 1 counts.

    A bound on the risk of confidence 1 − δ is right only if this is at most δ for every risk.
    """
    if m < 1 or not 0 <= risk <= 1:
        raise ArgumentError(f"m, risk: {m}, {risk}, expected at least 1 and a number from 0 to 1")
    missed = (k for k in range(m + 1) if risk > bound(k))
    top, rest, below = risk.numerator, risk.denominator - risk.numerator, risk.denominator**m
    return Fraction(sum(math.comb(m, k) * top**k * rest ** (m - k) for k in missed), below)


def simulated_misses(bound: Callable[[int], Fraction], m: int, risk: Fraction, runs: int, seed: int) -> int:
    """How many of ``runs`` experiments, each with m examples of this risk, the bound misses."""
    if m < 1 or not 0 <= risk <= 1 or runs < 1:
        raise ArgumentError(f"m, risk, runs: {m}, {risk}, {runs}, expected at least 1, from 0 to 1, at least 1")
    counts = np.bincount(np.random.default_rng(seed).binomial(m, float(risk), runs), minlength=m + 1)
    return sum(int(count) for k, count in enumerate(counts) if count and risk > bound(k))


def agrees(misses: int, runs: int, probability: Fraction, doubt: float = 1e-9) -> bool:
    """Whether ``misses`` in ``runs`` is no surprise: both tails of the binomial are at least ``doubt``."""
    from scipy.special import bdtr, bdtrc

    p = float(probability)
    return bool(bdtr(misses, runs, p) >= doubt and (misses == 0 or bdtrc(misses - 1, runs, p) >= doubt))


def exp_below(exponent: Fraction) -> Fraction:
    """A rational number that is not above ``e^exponent`` and agrees to 12 digits, for −700 ≤ exponent ≤ 0.

    ``1 / e^t`` for ``t = −exponent``: ``e^(t/2^k) ≤ Σ_{i<n} u^i/i! + (u^n/n!)/(1 − u/(n + 1))`` with ``u = t/2^k ≤ 1``,
    rounded up to a multiple of 2^−128 and squared k times, rounded up each time.
    """
    if not -700 <= exponent <= 0:
        raise ArgumentError(f"exponent: {exponent}, expected a number from −700 to 0")
    halvings = max(0, math.ceil(-exponent) - 1).bit_length()
    u, terms = -exponent / (1 << halvings), 24
    term, total = Fraction(1), Fraction(0)
    for i in range(1, terms + 1):
        total += term
        term *= u / i
    above = _rounded_up(total + term / (1 - u / (terms + 1)))
    for _ in range(halvings):
        above = _rounded_up(above * above)
    return 1 / above


def _rounded_up(value: Fraction) -> Fraction:
    return Fraction(math.ceil(value * (1 << 128)), 1 << 128)
