"""Programs as MLCERT means them: the theorems hold for every outcome counted, and false ones are seen to fail."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.bounds import upper_risk
from lean_mnist.generalization.learners import Examples, Perceptron
from lean_mnist.generalization.programs import (
    Experiment,
    Finite,
    Program,
    Sampled,
    against_chernoff,
    agrees,
    exp_below,
    miscoverage,
    observe,
    sample,
    simulated_misses,
    unit,
)

Example = tuple[int, int]
Table = tuple[int, ...]

HALF = Fraction(1, 2)


def memoriser(values: int) -> Callable[[tuple[Example, ...]], Table]:
    """The label seen most often with each x, 0 if none: one of 2^values hypotheses."""

    def rule(examples: tuple[Example, ...]) -> Table:
        votes = [0] * values
        for x, y in examples:
            votes[x] += 1 if y else -1
        return tuple(int(vote > 0) for vote in votes)

    return rule


def right(table: Table, example: Example) -> bool:
    return table[example[0]] == example[1]


def noise(values: int, ones: Fraction = HALF) -> Finite[Example]:
    """x uniform; y is 1 with probability ``ones``, whatever x: nothing can be learnt."""
    each = Fraction(1, values)
    return Finite({(x, y): each * (ones if y else 1 - ones) for x in range(values) for y in (0, 1)})


def experiment(values: int, ones: Fraction = HALF) -> Experiment[Example, Table]:
    return Experiment(noise(values, ones), memoriser(values), right)


def test_a_program_is_an_expected_value() -> None:
    coin = Finite({0: Fraction(1, 3), 1: Fraction(2, 3)})
    two = sample(coin, 2)
    assert two.expected(sum) == Fraction(4, 3)
    assert two.probability() == 1
    assert two.then(lambda pair: observe(lambda p: p[0] != p[1], pair)).probability() == Fraction(4, 9)
    assert two.then(lambda pair: sample(coin, 1 + sum(pair))).expected(len) == 1 + Fraction(4, 3)
    assert unit(5).then(lambda v: observe(lambda w: w > 5, v)).probability() == 0


def test_monad_laws_and_order() -> None:
    coin = Finite({0: Fraction(1, 4), 1: Fraction(3, 4)})

    def again(value: tuple[int, ...]) -> Program[tuple[int, ...]]:
        return sample(coin, 2).then(lambda other: unit(value + other))

    def outcomes(program: Program[tuple[int, ...]]) -> dict[tuple[int, ...], Fraction]:
        result: dict[tuple[int, ...], Fraction] = {}
        for value, probability in program.outcomes():
            result[value] = result.get(value, Fraction(0)) + probability
        return result

    first = sample(coin, 1)
    assert outcomes(unit((1,)).then(again)) == outcomes(again((1,)))
    assert outcomes(first.then(unit)) == outcomes(first)
    left = first.then(again).then(again)
    assert outcomes(left) == outcomes(first.then(lambda v: again(v).then(again)))


@pytest.mark.parametrize(("values", "m"), [(1, 8), (2, 5), (3, 4)])
@pytest.mark.parametrize("ones", [HALF, Fraction(1, 10), Fraction(1)])
@pytest.mark.parametrize("epsilon", [Fraction(1, 10), Fraction(1, 4), Fraction(1, 2)])
def test_main_bound(values: int, m: int, ones: Fraction, epsilon: Fraction) -> None:
    program = experiment(values, ones).main(m, epsilon)
    assert against_chernoff(program, m, epsilon, bits=values).holds


def test_without_the_size_of_the_space_the_bound_is_false() -> None:
    epsilon, m = Fraction(2, 5), 3
    program = experiment(4).main(m, epsilon)
    verdict = against_chernoff(program, m, epsilon, bits=0)
    assert not verdict.holds
    assert against_chernoff(program, m, epsilon, bits=4).holds


@pytest.mark.parametrize(("m", "n"), [(1, 4), (2, 3)])
@pytest.mark.parametrize("ones", [HALF, Fraction(1, 5)])
def test_holdout_bound(m: int, n: int, ones: Fraction) -> None:
    for epsilon in (Fraction(1, 10), Fraction(3, 10)):
        assert against_chernoff(experiment(2, ones).holdout(m, n, epsilon), n, epsilon).holds


@pytest.mark.parametrize("m", [1, 2, 4])
def test_fixed_hypothesis(m: int) -> None:
    for ones, tenths in itertools.product((HALF, Fraction(9, 10)), range(1, 10)):
        epsilon = Fraction(tenths, 10)
        assert against_chernoff(experiment(2, ones).fixed((1, 0), m, epsilon), m, epsilon).holds


def test_exact_probability_by_hand() -> None:
    # One x, fair labels, m = 2: a fixed hypothesis is right on both with probability 1/4, and A + 1/4 < 1 then only.
    program = experiment(1).fixed((1,), 2, Fraction(1, 4))
    assert program.probability() == Fraction(1, 4)
    # The memoriser is right on both when they agree, on one of two otherwise: 1/2.
    assert experiment(1).main(2, Fraction(1, 4)).probability() == HALF


def test_simulation_agrees_with_enumeration() -> None:
    for seed, program in enumerate(
        (experiment(2).main(3, Fraction(1, 5)), experiment(2).holdout(1, 3, Fraction(1, 10)))
    ):
        print(f"seed {seed}")
        runs = 600
        assert agrees(program.simulate(runs, seed), runs, program.probability())
        assert not agrees(program.simulate(runs, seed), runs, program.probability() / 2)


def threshold_experiment() -> Experiment[tuple[float, bool], int]:
    """x uniform on [0, 1], y = (x > 1/2) flipped once in ten; thresholds t/8, the best one is learnt."""

    def draw(random: np.random.Generator) -> tuple[float, bool]:
        x = float(random.random())
        return x, bool((x > 0.5) != (random.random() < 0.1))

    def right_at(threshold: int, example: tuple[float, bool]) -> bool:
        return (example[0] > threshold / 8) == example[1]

    def rule(examples: tuple[tuple[float, bool], ...]) -> int:
        return max(range(8), key=lambda t: sum(right_at(t, example) for example in examples))

    known = [Fraction(9, 10) - Fraction(8, 10) * abs(Fraction(t, 8) - HALF) for t in range(8)]
    return Experiment(Sampled(draw), rule, right_at, known.__getitem__)


def test_a_distribution_that_is_not_finite_is_simulated() -> None:
    print("seed 2")
    chosen, m, runs, epsilon = threshold_experiment(), 12, 300, Fraction(3, 10)
    for program, bits in ((chosen.main(m, epsilon), 3), (chosen.holdout(4, m, epsilon), 0)):
        allowed = (1 << bits) * math.exp(-2 * float(epsilon) ** 2 * m)
        misses = program.simulate(runs, 2)
        assert misses <= allowed * runs + 5 * math.sqrt(allowed * runs)
    with pytest.raises(ArgumentError, match="not finite, expected a finite one; simulate it"):
        chosen.main(m, epsilon).probability()
    with pytest.raises(ArgumentError, match="known_accuracy: none"):
        Experiment(chosen.distribution, chosen.rule, chosen.right).accuracy(3)


def test_a_perceptron_in_a_program() -> None:
    learner = Perceptron(1)
    points = (-1.0, 0.5, 2.0)
    distribution = Finite({(x, y): Fraction(1, 3) * (Fraction(3, 4) if y == (x > 0) else Fraction(1, 4))
                           for x in points for y in (False, True)})  # fmt: skip

    def examples_of(drawn: tuple[tuple[float, bool], ...]) -> Examples:
        return Examples(np.array([[x] for x, _ in drawn], np.float32), np.array([y for _, y in drawn]))

    def rule(drawn: tuple[tuple[float, bool], ...]) -> tuple[bool, ...]:
        parameters = learner.learn(examples_of(drawn), 3)
        return tuple(learner.predict(parameters, np.array(points, np.float32)[:, None]).tolist())

    chosen = Experiment(distribution, rule, lambda labels, example: labels[points.index(example[0])] == example[1])
    assert against_chernoff(chosen.main(3, Fraction(1, 4)), 3, Fraction(1, 4), bits=3).holds
    assert against_chernoff(chosen.holdout(2, 3, Fraction(1, 4)), 3, Fraction(1, 4)).holds


def hoeffding(m: int, delta: float) -> Callable[[int], Fraction]:
    epsilon = Fraction(math.sqrt(math.log(1 / delta) / (2 * m)) * (1 + 1e-12))
    return lambda k: min(Fraction(1), Fraction(k, m) + epsilon)


GRID = [Fraction(k, 40) for k in range(41)] + [Fraction(1, 1000), Fraction(999, 1000)]


@pytest.mark.parametrize("m", [1, 2, 7, 50, 200])
@pytest.mark.parametrize("delta", [0.5, 0.035, 1e-9])
def test_coverage_of_hoeffding(m: int, delta: float) -> None:
    bound = hoeffding(m, delta)
    assert all(miscoverage(bound, m, risk) <= Fraction(delta) for risk in GRID)


def test_a_wrong_bound_is_caught() -> None:
    too_small = hoeffding(50, 0.5)  # claimed for 0.035
    assert any(miscoverage(too_small, 50, risk) > Fraction(0.035) for risk in GRID)
    assert miscoverage(lambda k: Fraction(k, 50), 50, Fraction(1, 2)) > Fraction(4, 10)


def test_a_million_experiments_agree() -> None:
    m, risk, runs = 200, Fraction(1, 10), 10**6
    bound = hoeffding(m, 0.4)
    exact = miscoverage(bound, m, risk)
    misses = simulated_misses(bound, m, risk, runs, seed=0)
    assert misses > 1000
    assert agrees(misses, runs, exact)
    assert not agrees(misses, runs, exact * 2)
    assert simulated_misses(lambda k: Fraction(1), m, risk, runs, seed=0) == 0


@pytest.mark.parametrize("bound", ["hoeffding", "kl", "clopper-pearson", "empirical-bernstein"])
def test_a_million_experiments_with_every_bound(bound: str) -> None:
    m, risk, delta, runs = 30, Fraction(13, 60), Fraction(1, 5), 10**6
    table = [upper_risk(bound, k, m, delta, digits=4) for k in range(m + 1)]
    exact = miscoverage(table.__getitem__, m, risk)
    misses = simulated_misses(table.__getitem__, m, risk, runs, seed=1)
    assert exact <= delta
    assert misses <= delta * runs
    assert agrees(misses, runs, exact)


@pytest.mark.parametrize(
    "exponent", [Fraction(0), Fraction(-1, 3), Fraction(-1), Fraction(-19, 7), Fraction(-87), Fraction(-700)]
)
def test_exponential_from_below(exponent: Fraction) -> None:
    value, near = exp_below(exponent), Fraction(math.exp(exponent))
    assert abs(value / near - 1) < Fraction(1, 10**12)
    # e^x ≥ (1 + x/n)^n, from below as well; and value · e^−x ≤ 1, by the series of e^−x from below
    series, term = Fraction(0), Fraction(1)
    for i in range(1, 60):
        series += term
        term *= -exponent / i
    assert value * series <= 1


def test_impossible_questions() -> None:
    with pytest.raises(ArgumentError, match="probabilities: they sum to 2/3"):
        Finite({0: Fraction(1, 3), 1: Fraction(1, 3)})
    with pytest.raises(ArgumentError, match="probabilities"):
        Finite({0: Fraction(3, 2), 1: Fraction(-1, 2)})
    with pytest.raises(ArgumentError, match="m: 0"):
        sample(noise(1), 0)
    program = unit(1)
    with pytest.raises(ArgumentError, match="m, epsilon, bits"):
        against_chernoff(program, 0, HALF)
    with pytest.raises(ArgumentError, match="m, epsilon, bits"):
        against_chernoff(program, 3, Fraction(0))
    with pytest.raises(ArgumentError, match="m, risk"):
        miscoverage(lambda k: HALF, 3, Fraction(2))
    with pytest.raises(ArgumentError, match="m, risk, runs"):
        simulated_misses(lambda k: HALF, 3, HALF, 0, 0)
    with pytest.raises(ArgumentError, match="exponent: 1"):
        exp_below(Fraction(1))


def test_too_many_outcomes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lean_mnist.generalization.programs.LARGEST_ENUMERATION", 100)
    with pytest.raises(ArgumentError, match="more than 100 outcomes, expected fewer; simulate it"):
        sample(noise(2), 4).probability()
