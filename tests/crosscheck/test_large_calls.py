"""Large calls: few evaluations of the whole, the contract of some rows, and wrong gradients are found all the same."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from lean_mnist.crosscheck import check_function
from lean_mnist.crosscheck.report import Verdict

SHAPE = (300, 300)
calls: Counter[int] = Counter()


def x() -> Any:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).requires_grad_()


class SiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        calls[x.numel()] += 1
        ctx.save_for_backward(x)
        return silu(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        calls[x.numel()] += 1
        s = x.sigmoid()
        return upstream[0] * (s + x * s * (1 - s))


class DenseError(SiLU):
    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2)).to(upstream[0].dtype)
        return SiLU.backward(ctx, *upstream) * (1 + 1e-3 * noise[: len(upstream[0])])


class OneElement(SiLU):
    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        g = SiLU.backward(ctx, *upstream).clone()
        if len(g) == SHAPE[0]:
            g[250, 250] *= 1.001
        return g


class OfWhole(SiLU):
    """Right of some rows, wrong of all of them."""

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        return SiLU.backward(ctx, *upstream) * (1 if len(upstream[0]) < SHAPE[0] else 1.001)


class ReadsFlat(SiLU):
    """Takes every upstream gradient for a contiguous one."""

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (v,) = upstream
        flat = v if v.is_contiguous() else v.new_tensor(v.untyped_storage().tolist()[:1]).expand_as(v)
        return SiLU.backward(ctx, flat)


class AcrossRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.cumsum(0)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        return upstream[0].flip(0).cumsum(0).flip(0)


@pytest.mark.parametrize("reference", [None, silu])
def test_forty_evaluations_are_enough(reference: Any) -> None:
    calls.clear()
    report = check_function(SiLU.apply, reference, [x()], seed=1)
    assert report.ok, report
    assert calls[x().numel()] <= 40
    assert any("of 300 rows" in finding.text for finding in report.findings)


@pytest.mark.parametrize("function", [DenseError, OneElement, OfWhole])
@pytest.mark.parametrize("reference", [None, silu])
def test_wrong_gradients_are_found(function: Any, reference: Any) -> None:
    report = check_function(function.apply, reference, [x()], seed=1, fast=True)
    assert report.verdict is Verdict.FAILED
    assert "finite differences" in {failure.rule for failure in report.failures}


def test_the_contract_of_some_rows_is_broken() -> None:
    report = check_function(ReadsFlat.apply, silu, [x()], seed=1, fail_on="warning")
    assert "upstream layout" in {failure.rule for failure in report.failures}


def test_what_couples_rows_is_asked_as_a_whole() -> None:
    report = check_function(AcrossRows.apply, None, [x()], seed=1, fast=True)
    assert report.ok, report
    assert not any("of 300 rows" in finding.text for finding in report.findings)


def test_differences_of_what_computes_in_float32_are_taken_there() -> None:
    report = check_function(lambda x: silu(x.float()).to(x.dtype), None, [x()], seed=1, fast=True)
    assert all("in float32" in f.text for f in report.findings if f.rule == "finite differences")


@pytest.mark.parametrize("reference", [None, silu])
def test_within_little_memory_differences_are_taken_in_chunks(reference: Any) -> None:
    many = torch.randn((1500, 300), generator=torch.Generator().manual_seed(1)).requires_grad_()
    limit = 12 * 2 * 4 * many.numel()
    report = check_function(SiLU.apply, reference, [many], seed=1, max_memory=limit)
    assert report.ok, report
    (differences,) = (f for f in report.findings if f.rule == "finite differences")
    assert "in 7 chunks of its rows" in differences.text

    class LastRow(SiLU):
        @staticmethod
        def backward(ctx: Any, *upstream: Tensor) -> Tensor:
            g = SiLU.backward(ctx, *upstream).clone()
            if len(g) == 1500:
                g[-1] *= 1.01
            return g

    report = check_function(LastRow.apply, reference, [many], seed=1, max_memory=limit)
    assert "finite differences" in {failure.rule for failure in report.failures}
