"""The Gaussian's formulas and the PAC-Bayes objectives: each backward is SymPy's derivative of its forward."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import sympy

from lean_mnist.chainrule import gaussian
from lean_mnist.chainrule.pac_bayes import (
    OBJECTIVES,
    bounded_risk_backward,
    bounded_risk_forward,
    objective_backward,
)
from lean_mnist.errors import ArgumentError
from tests.chainrule.test_chainrule_symbolic import assert_equal_at, assert_identical, derivatives, symbols_of


def test_sample() -> None:
    mean, log_scale, noise, d_w = (symbols_of(name, 2, 3) for name in ("m", "l", "e", "g"))
    w, tape = gaussian.sample_forward(mean, log_scale, noise)
    assert_identical(w, mean + np.vectorize(sympy.exp, otypes=[object])(log_scale) * noise)
    total = (w * d_w).sum()
    for found, of in zip(gaussian.sample_backward(tape, d_w), (mean, log_scale), strict=True):
        assert_identical(found, derivatives(total, of))


def test_divergence() -> None:
    """The formula is the integral's: SymPy's own expectation of the log-ratio of the densities, term by term."""
    mean, log_scale = symbols_of("m", 2), symbols_of("l", 2)
    prior_mean, prior_log_scale = symbols_of("n", 2), symbols_of("k", 1)
    value, tape = gaussian.divergence_forward(mean, log_scale, prior_mean, prior_log_scale)
    expected = 0
    for mu, ell, mu0, ell0 in np.broadcast(mean, log_scale, prior_mean, prior_log_scale):
        # E over w = μ + σ e of ln N(w; μ, σ²) − ln N(w; μ₀, σ₀²), a quadratic in e, with E e = 0 and E e² = 1
        e = sympy.Symbol("e")
        ratio = -ell - e**2 / 2 + ell0 + (mu + sympy.exp(ell) * e - mu0) ** 2 / (2 * sympy.exp(2 * ell0))
        quadratic = sympy.Poly(sympy.expand(ratio), e)
        expected += quadratic.coeff_monomial(1) + quadratic.coeff_monomial(e**2)
    assert sympy.simplify(value - expected) == 0
    g = sympy.Symbol("g")
    for found, of in zip(gaussian.divergence_backward(tape, g), (mean, log_scale), strict=True):
        assert_identical(found, derivatives(value, of) * g)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective(name: str) -> None:
    """At a rational point to 40 digits; SymPy's derivative goes through the best λ of ``lambda`` as well."""
    risk, divergence, d_bound = (symbols_of(letter, 1, positive=True) for letter in "rkg")
    bound, tape = OBJECTIVES[name](risk, divergence, 1000, 6.5)
    point = {risk[0]: Fraction(3, 100), divergence[0]: Fraction(71, 3), d_bound[0]: Fraction(7, 5)}
    for found, of in zip(objective_backward(tape, d_bound), (risk, divergence), strict=True):
        assert_equal_at(point, found, derivatives(bound[0], of) * d_bound)


def test_every_objective_bounds_the_inverted_bound() -> None:
    """Each is at least the p with kl(r ‖ p) = K/m, which they relax."""
    for risk in (Fraction(1, 50), Fraction(1, 4)):
        r, divergence = (np.array([sympy.Rational(v.numerator, v.denominator)], object) for v in (risk, Fraction(40)))
        for objective in OBJECTIVES.values():
            p = float(objective(r, divergence, 2000, 8.5)[0][0])
            q = float(risk)
            assert q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p)) >= (40 + 8.5) / 2000


@pytest.mark.parametrize("losses", [["1/3", "1/2"], ["1/3", 2, "7/2"], [2, 3], ["1/2"]])
def test_bounded_risk_on_fractions(losses: list[str | int]) -> None:
    """The mean of min(loss, 2)/2, and its gradient: that of the losses below 2; at 2 there is none."""
    values = [Fraction(value) for value in losses]
    below = [value for value in values if value < 2]
    mean = np.array([sum(below, Fraction(0)) / max(1, len(below))], dtype=object)
    risk, slope = bounded_risk_forward(mean, len(below), len(values), 2.0)
    assert risk[0] == sum(min(value, Fraction(2)) / 2 for value in values) / len(values)
    # Each loss below has the gradient 1 / (2 B), so that their mean has n / (2 B).
    assert bounded_risk_backward(slope, np.array([Fraction(5)]))[0] == 5 * Fraction(len(below), 2 * len(values))


def test_the_gradient_of_the_bounded_risk_is_a_derivative() -> None:
    mean, d_risk = symbols_of("l", 1), symbols_of("g", 1)
    risk, slope = bounded_risk_forward(mean, 3, 7, 2.0)
    assert_identical(bounded_risk_backward(slope, d_risk), derivatives((risk * d_risk).sum(), mean))


def test_impossible_arguments() -> None:
    mean = symbols_of("m", 2)
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: gaussian.sample_forward(mean, mean[:1], mean), "log_scale: expected the shape of mean, (2,), found"),
        (lambda: gaussian.divergence_forward(mean, mean, symbols_of("n", 3, 2), mean), "prior: expected a shape that"),
        (lambda: bounded_risk_forward(mean, 1, 2, 0.0), "ceiling: expected a finite number above 0, found 0.0"),
    ]
    for call, message in calls:
        with pytest.raises(ArgumentError) as caught:
            call()
        assert str(caught.value).startswith(message)
