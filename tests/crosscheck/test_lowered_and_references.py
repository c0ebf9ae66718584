"""Functions that compute in less than their dtype, references that are wrong themselves, results that do not round."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lean_mnist.crosscheck import Verdict, check_function
from lean_mnist.crosscheck.perturbation import Perturbing
from tests.support.planted_faults import made, shared, square


def points(*shape: int, dtype: torch.dtype = torch.float32) -> Any:
    return (
        torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype).requires_grad_()
    )


def gate(x: Tensor) -> Tensor:
    return F.relu6(x + 3) / 6


right_gate = made(gate, lambda ctx, s, g: g * ((s[0] > -3) & (s[0] < 3)) / 6)


def without_a_term(x: Tensor) -> Tensor:
    """``x sin x`` whose gradient lacks a term."""
    return x * x.detach().sin()


class TestReferenceIsOff:
    """Where differences of the reference's own outputs agree with the Function's gradient."""

    def test_a_backward_with_a_constant_of_float32(self) -> None:
        x = torch.tensor([[-3.7, -1.3, -0.4, 0.3], [0.9, 2.2, 3.6, -2.6]], requires_grad=True)
        report = check_function(right_gate, F.hardsigmoid, [x], seed=0)
        assert report.verdict is Verdict.INCONCLUSIVE
        assert not report.failures
        assert str(report).startswith("INCONCLUSIVE: the reference is wrong about input 0 (seed 0)")
        assert "JVP-VJP product, input 0: the reference is off, not the function: " in str(report)

    def test_a_term_that_is_cut_off(self) -> None:
        function = made(lambda x: x * x.sin(), lambda ctx, s, g: g * (s[0].sin() + s[0] * s[0].cos()))
        report = check_function(function, without_a_term, [points(4, 3)], seed=0)
        assert {f.rule for f in report.findings if f.verdict is Verdict.INCONCLUSIVE} >= {"gradient"}
        assert not report.ok
        assert report.doubted == ("input 0",)

    def test_a_function_that_is_as_wrong_as_its_reference_fails(self) -> None:
        function = made(lambda x: x * x.sin(), lambda ctx, s, g: g * s[0].sin())
        assert check_function(function, without_a_term, [points(4, 3)], seed=0).verdict is Verdict.FAILED

    def test_other_outputs_fail(self) -> None:
        function = made(lambda x: x * x.cos(), lambda ctx, s, g: g * (s[0].cos() - s[0] * s[0].sin()))
        report = check_function(function, lambda x: x * x.sin(), [points(4, 3)], seed=0)
        assert {"output", "gradient"} <= {f.rule for f in report.failures}


def in_float32(factor: float) -> Any:
    return square(lambda ctx, saved, g: (factor * 2 * saved[0].float() * g.float()).to(g.dtype))


class TestLowered:
    """A backward in float32, whatever it is given."""

    @pytest.mark.parametrize("reference", [shared, None])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_right(self, dtype: torch.dtype, reference: Any) -> None:
        report = check_function(in_float32(1.0), reference, [points(6, 5, dtype=dtype)], seed=1)
        assert report.ok, report
        assert ("precision" in {f.rule for f in report.warnings}) == (dtype == torch.float64)

    @pytest.mark.parametrize("reference", [shared, None])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_wrong(self, dtype: torch.dtype, reference: Any) -> None:
        report = check_function(in_float32(1.0 + 1e-3), reference, [points(6, 5, dtype=dtype)], seed=1)
        assert {f.rule for f in report.failures} & {"gradient", "finite differences"}

    def test_a_forward_with_noise_is_still_judged(self) -> None:
        function = made(lambda x: x.float().tanh().to(x.dtype), lambda ctx, s, g: 1.3 * g * (1 - s[0].tanh() ** 2))
        report = check_function(function, None, [points(4, 5, dtype=torch.float64)], seed=0)
        assert "finite differences" in {f.rule for f in report.failures}


@pytest.mark.parametrize("start", [0, 1])
def test_what_does_not_round_is_not_perturbed(start: int) -> None:
    def spline(x: Tensor, c: Tensor) -> Tensor:
        n = torch.floor(x) + start
        return c[n.long()] * (1 - (x - n)) + c[n.long() + 1] * (x - n)

    x = (4 * torch.rand(6, generator=torch.Generator().manual_seed(0))).requires_grad_()
    report = check_function(spline, None, [x, points(8)], seed=0)
    assert report.ok, report
    assert report.gradcheck == "passed"


def test_a_shape_that_rounding_decides() -> None:
    def function(x: Tensor) -> Tensor:
        return x.sin()[: int((torch.tensor(1.5) * torch.tensor(2.0)).ceil())]

    assert check_function(function, None, [points(6)], seed=0).ok


def test_the_second_derivative_of_an_intended_gradient_is_nobodys_affair() -> None:
    function = square(lambda ctx, saved, g: g * (1 + saved[0].detach()))
    report = check_function(function, None, [points(5, 3)], seed=0, intended="natural gradient")
    assert report.ok
    assert not report.warnings


def test_sums_and_products_of_whole_numbers_are_not_perturbed() -> None:
    def spline(x: Tensor, c: Tensor) -> Tensor:
        n = torch.floor(x)
        i = (torch.arange(x.numel()) * 0 + 1.0 * n).long()
        return c[i] * (1 - (x - n)) + c[i + 1] * (x - n)

    x = (4 * torch.rand(6, generator=torch.Generator().manual_seed(0))).requires_grad_()
    assert check_function(spline, None, [x, points(7)], seed=0).ok


def test_zeros_without_memory_are_not_perturbed() -> None:
    with Perturbing(torch.Generator()):
        zero = torch._efficientzerotensor((2,))
    assert zero.sum() == 0
