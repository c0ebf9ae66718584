"""Operators of ``torch.library``: their gradients are checked as others are, and ``opcheck`` is part of the report."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck import Severity, Verdict, check_function


def operator(
    name: str,
    forward: Callable[[Tensor], Tensor] = torch.sin,
    slope: Callable[[Tensor], Tensor] = torch.cos,
    fake: Callable[[Tensor], Tensor] = torch.empty_like,
) -> Any:
    """``lean_mnist_tests::name`` with a forward, a derivative and a fake kernel of its own."""

    @torch.library.custom_op(f"lean_mnist_tests::{name}", mutates_args=())
    def op(x: Tensor) -> Tensor:
        return forward(x)

    op.register_fake(fake)
    op.register_autograd(
        lambda ctx, g: g * slope(*ctx.saved_tensors),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )
    return op


def checked(op: Any) -> Any:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    return check_function(op, torch.sin, [x], seed=1)


def said_by_opcheck(report: Any) -> list[str]:
    return [f.text for f in report.findings if f.rule == "opcheck"]


def opcheck_failures(report: Any) -> dict[str, Severity]:
    return {f.subject: f.severity for f in report.findings if f.rule == "opcheck" and f.verdict is Verdict.FAILED}


def test_a_right_operator_by_each_of_its_names() -> None:
    op = operator("right")
    for subject in (op, torch.ops.lean_mnist_tests.right, torch.ops.lean_mnist_tests.right.default):
        report = checked(subject)
        assert report.ok, report
        assert not report.warnings
        assert said_by_opcheck(report) == ["schema, autograd_registration, faketensor, aot_dispatch_dynamic"]
    assert said_by_opcheck(checked(torch.sin)) == ["no operator registered with torch.library"]


def test_a_wrong_backward_is_an_error_of_which_opcheck_knows_nothing() -> None:
    report = checked(operator("wrong_backward", slope=lambda x: x.cos() * 1.01))
    assert report.verdict is Verdict.FAILED
    assert {"gradient", "finite differences"} <= {f.rule for f in report.failures}
    assert not opcheck_failures(report)


def test_a_wrong_fake_kernel_is_a_warning() -> None:
    report = checked(operator("wrong_fake", fake=lambda x: x.new_empty(x.shape, dtype=torch.float64)))
    assert report.ok
    assert opcheck_failures(report) == {"test_faketensor": Severity.WARNING}


def test_a_gradient_that_is_another_when_compiled_is_an_error() -> None:
    def slope(x: Tensor) -> Tensor:
        return x.cos() * (1.0 if type(x) is Tensor else 0.5)  # a traced one is of a subclass

    report = checked(operator("wrong_compiled", slope=slope))
    assert report.verdict is Verdict.FAILED
    assert opcheck_failures(report) == {"test_aot_dispatch_dynamic": Severity.ERROR}


def test_an_operator_that_writes_into_its_input_without_saying_so() -> None:
    def forward(x: Tensor) -> Tensor:
        y = x.sin()
        x.add_(1)
        return y

    report = checked(operator("mutating", forward=forward))
    assert report.verdict is Verdict.FAILED
    assert "mutation" in {f.rule for f in report.failures}
    assert opcheck_failures(report) == {"test_schema": Severity.WARNING}
