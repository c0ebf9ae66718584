"""Probabilistic programs: the theorems hold over all outcomes, and false ones are seen to fail."""

import itertools
import json
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from lean_mnist.errors import ArgumentError, BoundError
from lean_mnist.generalization import programs
from lean_mnist.generalization.bounds import BOUNDS, upper_risk
from lean_mnist.generalization.learners.perceptrons import Examples, Perceptron
from lean_mnist.generalization.programs import (
    Experiment,
    LabelledInput,
    LabelTable,
    chernoff_holds,
    finite,
    majority_experiment,
    miscoverage,
    sample,
)
from lean_mnist.programs import main

HALF = Fraction(1, 2)


def experiment(inputs: int, ones: Fraction = HALF) -> Experiment[LabelledInput, LabelTable]:
    return majority_experiment(inputs, ones)


def test_outcomes_and_their_probabilities() -> None:
    coin = finite({0: Fraction(1, 3), 1: Fraction(2, 3), 2: Fraction(0)})
    two = dict(sample(coin, 2))
    third = Fraction(1, 9)
    assert two == {(0, 0): third, (0, 1): 2 * third, (1, 0): 2 * third, (1, 1): 4 * third}
    assert sum(two.values()) == 1


@pytest.mark.parametrize(("values", "m"), [(1, 8), (2, 5), (3, 4)])
@pytest.mark.parametrize("ones", [HALF, Fraction(1, 10), Fraction(1)])
@pytest.mark.parametrize("epsilon", [Fraction(1, 10), Fraction(1, 4), Fraction(1, 2)])
def test_main_bound(values: int, m: int, ones: Fraction, epsilon: Fraction) -> None:
    probability = experiment(values, ones).main(m, epsilon)
    assert chernoff_holds(probability, m, epsilon, bits=values)


def test_without_the_size_of_the_space_the_bound_is_false() -> None:
    epsilon, m = Fraction(2, 5), 3
    probability = experiment(4).main(m, epsilon)
    assert not chernoff_holds(probability, m, epsilon, bits=0)
    assert chernoff_holds(probability, m, epsilon, bits=4)


@pytest.mark.parametrize(("m", "n"), [(1, 4), (2, 3)])
@pytest.mark.parametrize("ones", [HALF, Fraction(1, 5)])
def test_holdout_bound(m: int, n: int, ones: Fraction) -> None:
    for epsilon in (Fraction(1, 10), Fraction(3, 10)):
        probability = experiment(2, ones).holdout(m, n, epsilon)
        assert chernoff_holds(probability, n, epsilon)
        chosen = experiment(2, ones)
        apart = [p * chosen.fixed(chosen.rule(drawn), n, epsilon)
                 for drawn, p in sample(chosen.distribution, m)]  # fmt: skip
        assert sum(apart) == probability


@pytest.mark.parametrize("m", [1, 2, 4])
def test_fixed_hypothesis(m: int) -> None:
    for ones, tenths in itertools.product((HALF, Fraction(9, 10)), range(1, 10)):
        epsilon = Fraction(tenths, 10)
        assert chernoff_holds(experiment(2, ones).fixed((1, 0), m, epsilon), m, epsilon)


def test_exact_probability_by_hand() -> None:
    # One x, fair labels, m = 2: a fixed hypothesis is right on both with probability 1/4, and A + 1/4 < 1 then only.
    assert experiment(1).fixed((1,), 2, Fraction(1, 4)) == Fraction(1, 4)
    # The memoriser is right on both when they agree, on one of two otherwise: 1/2.
    assert experiment(1).main(2, Fraction(1, 4)) == HALF


def test_a_perceptron_in_a_program() -> None:
    learner = Perceptron(1)
    points = (-1.0, 0.5, 2.0)
    distribution = finite({(x, y): Fraction(1, 3) * (Fraction(3, 4) if y == (x > 0) else Fraction(1, 4))
                           for x in points for y in (False, True)})  # fmt: skip

    def examples_of(drawn: tuple[tuple[float, bool], ...]) -> Examples:
        return Examples(np.array([[x] for x, _ in drawn], np.float32), np.array([y for _, y in drawn]))

    def rule(drawn: tuple[tuple[float, bool], ...]) -> tuple[bool, ...]:
        parameters, _ = learner.learn(examples_of(drawn), 3)
        return tuple(learner.predict(parameters, np.array(points, np.float32)[:, None]).tolist())

    chosen = Experiment(distribution, rule, lambda labels, example: labels[points.index(example[0])] == example[1])
    assert chernoff_holds(chosen.main(3, Fraction(1, 4)), 3, Fraction(1, 4), bits=3)
    assert chernoff_holds(chosen.holdout(2, 3, Fraction(1, 4)), 3, Fraction(1, 4))


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


@pytest.mark.parametrize("bound", BOUNDS)
def test_coverage_of_every_bound(bound: str) -> None:
    m, delta = 30, Fraction(1, 5)
    table = [upper_risk(bound, k, m, delta, digits=4) for k in range(m + 1)]
    assert max(miscoverage(table.__getitem__, m, risk) for risk in GRID) <= delta


@pytest.mark.parametrize("m", [1, 3, 87, 350])
def test_chernoff_is_decided_next_to_equality(m: int) -> None:
    allowed = Fraction(math.exp(-2 * m / 4))  # rounded by at most an ulp
    assert chernoff_holds(allowed * (1 - Fraction(1, 10**12)), m, HALF)
    assert not chernoff_holds(allowed * (1 + Fraction(1, 10**12)), m, HALF)
    assert chernoff_holds(8 * allowed * (1 - Fraction(1, 10**12)), m, HALF, bits=3)
    assert not chernoff_holds(8 * allowed * (1 + Fraction(1, 10**12)), m, HALF, bits=3)
    assert chernoff_holds(Fraction(0), m, HALF)


def test_impossible_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="probabilities: they sum to 2/3"):
        finite({0: Fraction(1, 3), 1: Fraction(1, 3)})
    with pytest.raises(ArgumentError, match="probabilities"):
        finite({0: Fraction(3, 2), 1: Fraction(-1, 2)})
    with pytest.raises(ArgumentError, match="inputs, ones: 0, 1/2"):
        experiment(0)
    coins = experiment(1).distribution
    with pytest.raises(ArgumentError, match="m: 0"):
        sample(coins, 0)
    with pytest.raises(ArgumentError, match=r"m: 21 of 2 values have more than 1,048,576 outcomes, expected fewer"):
        sample(coins, 21)
    for m, epsilon in ((0, HALF), (3, Fraction(0))):
        with pytest.raises(ArgumentError, match="m, epsilon, bits"):
            chernoff_holds(HALF, m, epsilon)


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["programs", *arguments])
    main()


def test_the_command_shows_the_bounds_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(monkeypatch, "--bound-examples", "9")
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.endswith("holds") for line in lines) == 3 + len(BOUNDS)
    (contrast,) = [line for line in lines if line.endswith("is false")]
    assert contrast.startswith("learnt from 5 and measured on them, without the union")
    run_command(monkeypatch, "--inputs", "1", "--examples", "2", "--fresh", "1", "--epsilon", "1/4", "--json")
    found = json.loads(capsys.readouterr().out)
    assert [each["probability"] for each in found["theorems"]] == ["1/4", "1/2", "1/2", "1/2"]
    assert [each["theorem"] for each in found["theorems"]] == [True, True, False, True]
    for option, value, error in (
        ("--examples", "60", ArgumentError), ("--ones", "2", ArgumentError), ("--epsilon", "x", BoundError),
        ("--epsilon", "1e200", ArgumentError), ("--bound-examples", "-1", BoundError),
    ):  # fmt: skip
        with pytest.raises(error, match=r"expected"):
            run_command(monkeypatch, option, value)
    with pytest.raises(ArgumentError, match="inputs, ones: 1100, 1/2, expected 1 to 1,000"):
        run_command(monkeypatch, "--inputs", "1100", "--examples", "1", "--fresh", "1")


def test_the_command_ends_with_status_1_where_a_theorem_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(programs, "upper_risk", lambda bound, k, m, delta: Fraction(k, m))  # no margin at all
    with pytest.raises(SystemExit) as stop:
        run_command(monkeypatch, "--inputs", "1")
    assert stop.value.code == 1
    assert "FAILS" in capsys.readouterr().out
