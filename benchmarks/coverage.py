"""``python -m benchmarks.coverage``: does every bound fail as rarely as it promises?

Exactly: for every m up to 200 and a grid of true risks, the probability that the bound is below the true risk, summed
in whole numbers and compared with δ. Simulated: a million experiments each of 200 and of 10,000 examples, against the
exact probability. Prints, for each bound, the largest probability of failure as a share of δ: 1 would be no slack at
all, and above 1 would refute the bound.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction

import numpy as np
from tqdm import tqdm

from lean_mnist.command_line import parse, run_command
from lean_mnist.generalization.bounds import BOUNDS, confirms, pac_bayes_risk
from lean_mnist.generalization.confidence import union
from lean_mnist.generalization.exact import exact, least

_GRID = [
    Fraction(n, 1000) for n in (1, 2, 5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 400, 500, 650, 800, 900, 980, 999)
]
_HYPOTHESES_BITS = 3
_SIMULATED = [(200, Fraction(1, 50)), (200, Fraction(3, 10)), (10_000, Fraction(1, 50)), (10_000, Fraction(3, 10))]

# How many counts k = 0, 1, … have a bound below the true risk p: (m, δ, p) -> number.
Failures = Callable[[int, Fraction, Fraction], int]


@dataclass(frozen=True)
class Arguments:
    """Enumerate and simulate the coverage of every bound."""

    delta: str = "0.035"
    """Failure probability that is promised, exact."""
    examples: int = 200
    """Enumerate every m up to this."""
    experiments: int = 1_000_000
    """Simulated experiments of each kind."""
    seed: int = 0
    """Of the simulation."""
    json: bool = False
    """Print one JSON document."""


@dataclass(frozen=True)
class Row:
    bound: str
    enumerated: int  # pairs of m and p
    largest_share: float  # of δ, rounded up
    at: str
    refuted: int


@dataclass(frozen=True)
class Simulation:
    bound: str
    examples: int
    risk: str
    expected: float
    failures: int
    experiments: int
    sigmas: float


def _one_sided(bound: str) -> Failures:
    """The bound is below p for just those k at which it confirms some decimal below p; then k + 1 and less as well."""

    def failures(m: int, delta: Fraction, p: Fraction) -> int:
        below = p - Fraction(1, 10**12)
        return least(lambda k: not confirms(bound, k, m, delta, below), int(p * m), 0, m + 1)

    return failures


def _posterior_is_prior(m: int, delta: Fraction, p: Fraction) -> int:
    """PAC-Bayes-kl with KL = 0, for a posterior that is the prior: a Gibbs classifier of that risk."""
    return least(lambda k: pac_bayes_risk(Fraction(k, m), m, 0, delta) >= p, int(p * m), 0, m + 1)


def _probability(m: int, p: Fraction, failures: int) -> Fraction:
    """P[Binomial(m, p) < failures], exactly."""
    n, d = p.numerator, p.denominator
    return Fraction(sum(math.comb(m, k) * n**k * (d - n) ** (m - k) for k in range(failures)), d**m)


def enumerate_bound(name: str, largest: int, delta: Fraction, progress: tqdm[None]) -> Row:
    """Every m up to ``largest`` and every p of the grid."""
    worst, at, refuted, count = Fraction(0), "", 0, 0
    for m in range(1, largest + 1):
        for p in _GRID:
            probability = _failure(name, m, delta, p)
            refuted += probability > delta
            count += 1
            if probability > worst:
                worst, at = probability, f"m = {m}, p = {float(p)}"
        progress.update()
    share = worst / delta
    return Row(name, count, math.ceil(share * 10_000) / 10_000, at, refuted)


def _failure(name: str, m: int, delta: Fraction, p: Fraction) -> Fraction:
    """The exact probability that the bound ``name`` is below the true risk."""
    if name == "pac-bayes-kl":
        return _probability(m, p, _posterior_is_prior(m, delta, p))
    bound, _, how = name.partition(", ")
    if how == "two-sided":  # below on one side, or above on the other, which is below for the accuracy
        above = _one_sided(bound)(m, delta / 2, p)
        under = _one_sided(bound)(m, delta / 2, 1 - p)
        return _probability(m, p, above) + _probability(m, 1 - p, under)
    if how:  # the one with the fewest errors of 2^B hypotheses that err independently, each with risk p
        single = _probability(m, p, _one_sided(bound)(m, union(delta, _HYPOTHESES_BITS), p))
        return 1 - (1 - single) ** (2**_HYPOTHESES_BITS)
    return _probability(m, p, _one_sided(bound)(m, delta, p))


def simulate(bound: str, delta: Fraction, experiments: int, seed: int) -> list[Simulation]:
    """Experiments drawn at random; the number of failures against its exact expectation."""
    results = []
    for index, (m, p) in enumerate(_SIMULATED):
        border = _one_sided(bound)(m, delta, p)
        random = np.random.default_rng([seed, index])
        failures = int((random.binomial(m, float(p), experiments) < border).sum())
        expected = float(_probability(m, p, border))
        spread = math.sqrt(experiments * expected * (1 - expected))
        sigmas = (failures - experiments * expected) / spread if spread else float(failures)
        results.append(Simulation(bound, m, str(p), expected, failures, experiments, sigmas))
    return results


def main() -> None:
    """Enumerate, simulate, and print two tables."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m benchmarks.coverage")
    delta = exact(arguments.delta, "delta")
    names = [*BOUNDS, *(f"{bound}, two-sided" for bound in ("hoeffding", "kl", "clopper-pearson"))]
    names += [f"{bound}, the best of {2**_HYPOTHESES_BITS}" for bound in ("hoeffding", "kl", "clopper-pearson")]
    names += ["pac-bayes-kl"]
    with tqdm(total=len(names) * arguments.examples, unit="m", file=sys.stderr) as progress:
        rows = [enumerate_bound(name, arguments.examples, delta, progress) for name in names]
    simulated = [result for bound in BOUNDS for result in simulate(bound, delta, arguments.experiments, arguments.seed)]
    if arguments.json:
        print(
            json.dumps(
                {"delta": str(delta), "rows": [asdict(r) for r in rows], "simulated": [asdict(s) for s in simulated]}
            )
        )
        return
    print(f"delta {delta}, every m up to {arguments.examples}, {len(_GRID)} true risks\n")
    print("bound                            enumerated  refuted  largest failure / delta  at")
    for row in rows:
        print(f"{row.bound:<32} {row.enumerated:>10}  {row.refuted:>7}  {row.largest_share:>23.4f}  {row.at}")
    print("\nbound                     m      risk     exact  failures in  experiments  sigmas apart")
    for s in simulated:
        print(
            f"{s.bound:<20} {s.examples:>6}  {s.risk:>8}  {s.expected:.6f}  {s.failures:>11}  {s.experiments:>11}"
            f"  {s.sigmas:>+12.2f}"
        )


if __name__ == "__main__":
    run_command(main)
