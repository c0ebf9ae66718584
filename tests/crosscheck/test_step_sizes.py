"""Differences state their own error: it holds where smooth, noise is measured, kinks are told from curvature."""

import math
from typing import Any

import pytest
import torch

from lean_mnist.crosscheck.numerics.kinks import explained_by_kink
from lean_mnist.crosscheck.numerics.step_sizes import (
    Line,
    Residual,
    Slope,
    extrapolate,
    noise_of,
    residuals_along,
    taylor_rate,
)


def limit_of(residuals: list[Residual]) -> Slope:
    slope = extrapolate(residuals)
    assert slope is not None
    return slope


def rate_of(residuals: list[Residual], slack: float) -> float:
    rates = taylor_rate(residuals, slack)
    assert rates is not None
    return rates[1]


ONE = torch.ones((), dtype=torch.float64)


def line(function: Any, x: Any, dtype: torch.dtype = torch.float64) -> Any:
    point = torch.tensor(float(x), dtype=dtype)
    return Line(lambda at: [function(at[0])], [point], [ONE * max(abs(x), 1.0)], [ONE])


FUNCTIONS = {
    "sine": (torch.sin, math.cos),
    "exponential": (torch.exp, math.exp),
    "cube": (lambda x: x**3, lambda x: 3 * x * x),
    "logarithm": (lambda x: torch.log(x * x + 1), lambda x: 2 * x / (x * x + 1)),
    "linear": (lambda x: 3 * x, lambda x: 3.0),
    "constant": (lambda x: 0 * x + 2, lambda x: 0.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("x", [-2.3, 0.0, 0.7, 5.0])
def test_the_error_estimate_holds(name: str, x: Any) -> None:
    function, derivative = FUNCTIONS[name]
    along = line(function, x)
    noise = noise_of(along)
    scale = max(abs(x), 1.0)
    for said in (0.0, derivative(x), 2.0):
        residuals = residuals_along(along, [torch.tensor(said, dtype=torch.float64)], noise)
        slope = limit_of(residuals)
        assert abs(slope.residual / scale - (derivative(x) - said)) <= slope.error / scale
        assert slope.error <= 1e-9 * (1 + abs(derivative(x))) * scale


def test_the_estimate_of_a_noisy_function_is_honest() -> None:
    """One that rounds to float32 on the way, whatever it is given."""
    along = line(lambda x: torch.sin(x.float()).double(), 0.7)
    noise = noise_of(along)
    assert 2**-27 < noise < 2**-22
    slope = limit_of(residuals_along(along, [ONE * 0], noise))
    assert abs(slope.residual - math.cos(0.7)) <= slope.error
    assert 1e-9 < slope.error < 1e-3


def test_noise_is_that_of_the_precision_and_a_kink_is_none() -> None:
    for function in (torch.sin, lambda x: x.abs() + x):
        assert noise_of(line(function, 0.0)) < 1e-14


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"]
)
def test_in_lower_precisions(dtype: torch.dtype) -> None:
    along = line(torch.sin, 0.7, dtype)
    x = float(along.points[0])
    noise = noise_of(along)
    slope = limit_of(residuals_along(along, [ONE * 0], noise))
    assert abs(slope.residual - math.cos(x)) <= 2 * slope.error
    assert slope.error < {torch.float32: 1e-3, torch.float16: 0.2, torch.bfloat16: 1.0}[dtype]


def test_steps_out_of_the_domain_are_left_out() -> None:
    residuals = residuals_along(line(torch.log, 1e-2), [ONE * 0], 0.0)
    assert 0 < len(residuals) < 11
    assert all(residual.h < 1e-2 for residual in residuals)


def test_the_rate_of() -> None:
    sine = line(torch.sin, 0.7)
    noise = noise_of(sine)
    right, wrong = ONE * math.cos(0.7), ONE * math.cos(0.7) * 1.01
    assert rate_of(residuals_along(sine, [right], noise), 1e-16) == pytest.approx(2, abs=0.1)
    assert rate_of(residuals_along(sine, [wrong], noise), 1e-16) == pytest.approx(1, abs=0.1)
    linear = line(lambda x: 3 * x, 0.7)
    assert taylor_rate(residuals_along(linear, [ONE * 3], 1e-16), 1e-16) is None


def test_a_kink_is_told_from_curvature_and_from_a_wrong_gradient() -> None:
    noise = 1e-16
    kink = residuals_along(line(torch.abs, 0.0), [ONE], noise)
    assert limit_of(kink).residual == pytest.approx(-1)
    assert explained_by_kink(kink, -1.0)
    for curved, wrong in ((torch.sin, 1e-8), (torch.exp, 1e-8), (lambda x: 1e3 * x * x, 1e-6), (torch.sin, 0.5)):
        smooth = residuals_along(line(curved, 0.7), [torch.func.grad(curved)(0.7 * ONE) + wrong], noise)
        assert not explained_by_kink(smooth, -wrong)


def test_a_jump_is_no_wrong_gradient() -> None:
    jump = residuals_along(line(torch.sign, 0.0), [ONE * 0], 1e-16)
    assert explained_by_kink(jump, limit_of(jump).residual)


def test_enough_stops_early() -> None:
    residuals = residuals_along(line(torch.sin, 0.7), [ONE * math.cos(0.7)], 1e-16, enough=1e-6)
    assert len(residuals) < 6
    assert limit_of(residuals).error < 1e-6


def test_one_step_is_not_enough_to_tell() -> None:
    assert extrapolate([Residual(0.1, 1.0, 1.0, 0.0)]) is None
    assert extrapolate([]) is None
