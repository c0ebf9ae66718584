"""Gradients that ``torch.autograd.grad`` does not return are read where they are."""

from typing import Any

import pytest
import torch

from lean_mnist.crosscheck import Severity, Verdict, check_function
from tests.support.written_functions import AddedToMainGrad, Tripled, reentrant


def leaf(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).requires_grad_()


def cube(x: Any) -> Any:
    return (x**3).tanh()


@pytest.mark.parametrize("source", [None, "backward", lambda x: x.grad])
def test_a_reentrant_checkpoint(source: Any) -> None:
    for reference in (cube, None):
        report = check_function(reentrant(3.0), reference, [leaf(3, 4)], seed=1, gradients_from=source)
        assert report.ok, report
        notes = [f for f in report.findings if f.rule == "gradients_from"]
        assert len(notes) == (source is None)
        assert all(f.label == "NOTE" and "use_reentrant" in f.text for f in notes)
        report = check_function(reentrant(3.01), reference, [leaf(3, 4)], seed=1, gradients_from=source)
        assert report.verdict is Verdict.FAILED
        assert "finite differences" in {f.rule for f in report.failures if f.severity is Severity.ERROR}


def test_a_gradient_that_is_added_to_main_grad() -> None:
    def asked(factor: float) -> Any:
        def function(x: Any, weight: Any) -> Any:
            return AddedToMainGrad.apply(x, weight, factor)

        inputs = [leaf(5, 4), leaf(3, 4)]
        linear = torch.nn.functional.linear
        return check_function(function, linear, inputs, seed=1, gradients_from="main_grad")

    report = asked(1.0)
    assert report.ok, report
    for factor in (0.0, 1.1):
        report = asked(factor)
        assert {f.subject for f in report.failures if f.rule == "gradient"} == {"input 1"}


def test_a_backward_that_raises_however_it_is_called_is_no_note() -> None:
    def function(x: Any) -> Any:
        return Tripled.apply(x, "three")

    report = check_function(function, cube, [leaf(3)], seed=1)
    assert [f.rule for f in report.findings] == ["backward"]
    assert report.verdict is Verdict.FAILED
