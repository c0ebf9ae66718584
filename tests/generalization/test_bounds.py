"""Bounds: against mpmath, the checker and SciPy, exactly enumerated coverage, MLCERT's numbers, impossible requests."""

import functools
import itertools
import math
import operator
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import flint
import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from lean_mnist.errors import BoundError
from lean_mnist.generalization import checker
from lean_mnist.generalization.bounds import (
    BOUNDS,
    Bound,
    beta_quantile,
    confirms,
    pac_bayes_risk,
    risk_interval,
    upper_risk,
)
from lean_mnist.generalization.exact import ball, decide, decimal_text, exact, least, percent

ULP = Fraction(1, 10**12)
DELTAS = ("0.5", "0.035", "1e-9")


def mp(value: Fraction | int) -> mpmath.mpf:
    value = Fraction(value)
    return mpmath.mpf(value.numerator) / value.denominator


def mp_kl(q: Fraction, p: Fraction) -> mpmath.mpf:
    """kl(q ‖ p), by other means than the package's."""
    return sum((mp(a) * mpmath.log(mp(a) / mp(b)) for a, b in ((q, p), (1 - q, 1 - p)) if a), mpmath.mpf(0))


def judged(bound: str, k: int, m: int, delta: Fraction, p: Fraction) -> bool:
    """What mpmath says, with a hundred digits, to the inequality of the table in ``bounds``; it must not be close."""
    with mpmath.workdps(100):
        q, cost = Fraction(k, m), -mpmath.log(mp(delta))
        if bound == "hoeffding":
            slack = 2 * m * mp(p - q) ** 2 - cost if p >= q else -1
        elif bound == "kl":
            slack = m * mp_kl(q, p) - cost if p >= q else -1
        elif bound == "clopper-pearson":  # the sum itself, term by term
            terms, term = mpmath.mpf(0), mp(1 - p) ** m
            for i in range(k + 1):
                terms, term = terms + term, term * (m - i) / (i + 1) * mp(p) / mp(1 - p)
            slack = mp(delta) - terms if p > q else -1
        else:
            v, cost = Fraction(k * (m - k), m * (m - 1)), mpmath.log(2 / mp(delta))
            slack = mp(p - q) - mpmath.sqrt(2 * mp(v) * cost / m) - 7 * cost / (3 * (m - 1))
        assert abs(slack) > mpmath.mpf(10) ** -60
        return bool(slack > 0)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize(("k", "m"), [(0, 2), (1, 7), (3, 200), (157, 10_000), (0, 60_000), (90, 60_000)])
@pytest.mark.parametrize("delta", DELTAS)
def test_mpmath_confirms_the_bound_and_not_the_decimal_below_it(bound: str, k: int, m: int, delta: str) -> None:
    risk = upper_risk(bound, k, m, delta)
    assert Fraction(k, m) < risk <= 1
    assert risk.denominator <= 10**12
    if risk < 1:
        assert judged(bound, k, m, Fraction(delta), risk)
    assert not judged(bound, k, m, Fraction(delta), risk - ULP) or risk - ULP <= Fraction(k, m)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_the_checker_decides_as_the_bounds_do(data: st.DataObject) -> None:
    """Two implementations that share no arithmetic."""
    m = data.draw(st.integers(2, 3000))
    k = data.draw(st.integers(0, m))
    delta = Fraction(1, data.draw(st.integers(2, 10**12)))
    for bound in checker.THEOREMS:
        n = int(upper_risk(bound, k, m, delta) * 10**12)
        assert checker.confirms(bound, k, m, delta, n)
        assert not checker.confirms(bound, k, m, delta, n - 1)


@pytest.mark.parametrize("bound", ["kl", "clopper-pearson"])
def test_equality_is_decided_exactly(bound: str) -> None:
    """No error in m: the risk is at most 1 − δ^(1/m), a decimal here, where no enclosure can tell equal from less."""
    assert upper_risk(bound, 0, 1, "0.05") == Fraction(95, 100)
    assert upper_risk(bound, 0, 2, "0.25") == Fraction(1, 2)
    assert checker.confirms(bound, 0, 2, Fraction(1, 4), 5 * 10**11)
    assert not checker.confirms(bound, 0, 2, Fraction(1, 4), 5 * 10**11 - 1)


def test_clopper_pearson_is_scipys() -> None:
    for k, m in ((0, 50), (7, 50), (157, 10_000)):
        low, high = risk_interval("clopper-pearson", k, m, "0.05")
        assert float(high) == pytest.approx(beta.ppf(0.975, k + 1, m - k), rel=1e-9)
        assert float(low) == pytest.approx(beta.ppf(0.025, k, m - k + 1) if k else 0, rel=1e-9)


def test_the_quantile_that_searches_start_from_is_scipys() -> None:
    sizes = (0.3, 1, 2.5, 194, 9_807, 1e6)
    for a, b, tail in itertools.product(sizes, sizes, (0.965, 0.5, 0.025, 1e-9)):
        assert beta_quantile(a, b, tail) == pytest.approx(beta.isf(tail, a, b), rel=1e-6), (a, b, tail)


def test_sharper_bounds_are_sharper() -> None:
    for k, m in ((0, 100), (20, 400), (157, 10_000)):
        assert (
            upper_risk("clopper-pearson", k, m, "1e-9")
            <= upper_risk("kl", k, m, "1e-9")
            <= upper_risk("hoeffding", k, m, "1e-9")
        )


@functools.lru_cache
def probabilities(m: int, p: Fraction) -> list[Fraction]:
    return [math.comb(m, k) * p**k * (1 - p) ** (m - k) for k in range(m + 1)]


def failure(bound: str, m: int, delta: str, p: Fraction) -> Fraction:
    """The exact probability that the bound is below the true risk p; it grows with k, so that a few are enough."""
    wrong = least(lambda k: k > m or upper_risk(bound, k, m, delta, 9) >= p, int(m * p), 0, m + 1)
    return sum(probabilities(m, p)[:wrong], Fraction(0))


GRID = [Fraction(1, 1000), Fraction(1, 50), Fraction(1, 10), Fraction(1, 3), Fraction(1, 2), Fraction(9, 10)]


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("m", [1, 2, 3, 5, 8, 13, 21, 30, 200])
def test_coverage_is_at_least_what_is_promised(bound: str, m: int) -> None:
    """Exactly enumerated: P[upper bound < p] ≤ δ for every p of the grid. The rest: benchmarks/coverage.py."""
    for delta in ("0.3", "0.035"):
        for p in GRID:
            assert failure(bound, m, delta, p) <= Fraction(delta)


def test_coverage_test_finds_a_bound_that_promises_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """The normal approximation, which is no bound, fails the very same test."""

    def wald(k: Fraction, m: int, delta: Fraction, p: Fraction) -> Any:
        q = k / m
        return ball((p - q) ** 2 * m - Fraction(328, 100) * q * (1 - q))  # 1.81² at δ = 0.035

    monkeypatch.setitem(BOUNDS, "wald", Bound(wald))
    assert failure("wald", 30, "0.035", Fraction(1, 50)) > Fraction(35, 1000)


# MLCERT, Table 1, and what its counts give with sharper bounds; see tests/generalization/test_solve.py for ε.
@pytest.mark.parametrize(
    ("bound", "errors", "accuracy"),
    [
        ("kl", 40_000 - 37_023, "0.9168"),
        ("kl", 40_000 - 38_271, "0.9499"),
        ("clopper-pearson", 40_000 - 37_023, "0.9174"),
        ("clopper-pearson", 40_000 - 38_271, "0.9503"),
        ("hoeffding", 40_000 - 37_023, "0.9094"),
        ("hoeffding", 40_000 - 38_271, "0.9406"),
    ],
)
def test_mlcerts_test_counts_certify(bound: str, errors: int, accuracy: str) -> None:
    certified = 1 - upper_risk(bound, errors, 40_000, "1e-9")
    assert decimal_text(certified, 4, up=False) == accuracy


def test_pac_bayes_kl_against_mpmath() -> None:
    for q, m, kl, delta in (("0.02", 55_000, "500.5", "0.025"), ("0", 8, 0, "0.05"), ("0.5", 100, "3", "0.5")):
        risk = pac_bayes_risk(q, m, kl, delta)
        with mpmath.workdps(100):
            budget = mp(Fraction(kl)) + mpmath.log(2 * mpmath.sqrt(m) / mp(Fraction(delta)))
            assert m * mp_kl(Fraction(q), risk) > budget
            assert m * mp_kl(Fraction(q), risk - ULP) < budget


def test_pac_bayes_constant_holds_for_few_examples() -> None:
    """Maurer's ξ(m) = Σ C(m, k) (k/m)^k (1 − k/m)^(m−k) ≤ 2√m, for the m below 8 that his proof leaves out, and on."""
    for m in range(1, 41):
        xi = sum(
            (math.comb(m, k) * Fraction(k, m) ** k * (1 - Fraction(k, m)) ** (m - k) for k in range(m + 1)), Fraction(0)
        )
        assert xi**2 <= 4 * m


def test_pac_bayes_with_a_useless_posterior_is_vacuous() -> None:
    assert pac_bayes_risk("0.9", 10, 10**6, "0.05") == 1


def test_vacuous_bounds_are_one() -> None:
    for bound in BOUNDS:
        assert upper_risk(bound, 1, 1, "0.01") == 1
        assert confirms(bound, 1, 1, "0.01", 1)
        assert risk_interval(bound, 0, 5, "0.02")[0] == 0
    assert upper_risk("hoeffding", 0, 2, "0.01") == 1
    assert upper_risk("empirical-bernstein", 0, 1, "0.01") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("kl", 0, 0, "0.05"), "examples: expected at least 1, found 0; no examples say nothing"),
        (("kl", 6, 5, "0.05"), "errors: expected from 0 to the number of examples, 5, found 6"),
        (("kl", -1, 5, "0.05"), "errors: expected from 0 to the number of examples, 5, found -1"),
        (("kl", 1.0, 5, "0.05"), "errors: expected a whole number, found 1.0"),
        (("kl", True, 5, "0.05"), "errors: expected a whole number, found True"),
        (("kl", 1, 5, "0"), "delta: expected a probability strictly between 0 and 1, found 0"),
        (("kl", 1, 5, "-1e-9"), "delta: expected a probability strictly between 0 and 1, found -1e-9"),
        (("kl", 1, 5, 1), "delta: expected a probability strictly between 0 and 1, found 1"),
        (("kl", 1, 5, "nan"), "delta: expected a number such as 0.035, 1e-9 or 7/200, found 'nan'"),
        (("kl", 1, 5, "5%"), "delta: expected a number such as 0.035, 1e-9 or 7/200, found '5%'"),
        (("kl", 1, 5, "1e-999999999"), "delta: expected a number of moderate size, found '1e-999999999'"),
        (("kl", 1, 5, "1e-5000"), "delta: expected a number of moderate size, found '1e-5000'"),
        (
            ("kl", 1, 5, 0.05),
            "delta: expected an exact number (int, Fraction, or text such as '0.035'), found the float 0.05",
        ),
        (
            ("clopper", 1, 5, "0.05"),
            "bound: expected one of hoeffding, kl, clopper-pearson, empirical-bernstein, found 'clopper' "
            "(did you mean 'clopper-pearson'?)",
        ),
    ],
)
def test_impossible_requests_are_one_line(arguments: Any, message: str) -> None:
    with pytest.raises(BoundError) as caught:
        upper_risk(*arguments)
    assert str(caught.value) == message


def test_impossible_risks_and_divergences() -> None:
    with pytest.raises(BoundError, match=r"^risk: expected a number from 0 to 1, found 1.5$"):
        confirms("kl", 1, 5, "0.05", "1.5")
    with pytest.raises(
        BoundError, match=r"^divergence: expected a Kullback–Leibler divergence of at least 0, found -1$"
    ):
        pac_bayes_risk("0.1", 10, -1, "0.05")
    with pytest.raises(BoundError, match=r"^digits: expected from 1 to 100, found 0$"):
        upper_risk("kl", 1, 5, "0.05", 0)


# The arithmetic underneath.


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.fractions(Fraction(1, 10**30), 10**30, max_denominator=10**30), st.sampled_from([8, 64, 300]))
def test_the_checkers_logarithms_are_enclosed(x: Fraction, bits: int) -> None:
    low, high = checker._ln(x.numerator, x.denominator, bits)
    assert high - low <= 3
    with flint.ctx.workprec(bits + 200):
        exactly = ball(x).log() * flint.arb(2) ** bits
        assert (flint.arb(low) <= exactly and exactly <= flint.arb(high)) or x == 1


def test_what_is_decided_is_certain() -> None:
    """Numbers that 96 bits cannot tell from 0 take more; those that no bits can tell are left open, as is NaN."""
    assert decide(lambda: ball(2).sqrt() ** 2 - ball(2 - Fraction(1, 10**60))) is True
    assert decide(lambda: ball(2).sqrt() ** 2 - ball(2 + Fraction(1, 10**60))) is False
    assert decide(lambda: ball(2).sqrt() ** 2 - ball(2)) is None
    assert decide(lambda: flint.arb("nan")) is None


def test_exact_numbers() -> None:
    assert exact("0.035", "x") == exact(Decimal("0.035"), "x") == exact("7/200", "x") == Fraction(7, 200)
    with pytest.raises(BoundError, match="at most 200 characters"):
        exact("1" * 300, "x")
    assert decimal_text(Fraction(1, 3), 3, up=True) == "0.334"
    assert decimal_text(Fraction(1, 3), 3, up=False) == "0.333"
    assert decimal_text(Fraction(5), 0, up=True) == "5"
    assert percent(Fraction(1, 3), up=True) == checker.percent(Fraction(1, 3), True) == "33.34 %"
    assert percent(Fraction(1, 3), up=False) == checker.percent(Fraction(1, 3), False) == "33.33 %"


def test_least_finds_the_border_from_anywhere() -> None:
    for border in (0, 1, 7, 99, 100):
        for start in (0, 1, 8, 50, 100):
            assert least(partial(operator.le, border), start, 0, 100) == border
    assert least(lambda n: n >= 12345, 0, 0, None) == 12345
