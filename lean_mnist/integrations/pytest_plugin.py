"""The pytest fixture ``gradient_check``: ``check_function`` that fails the test with its report.

Registered as a plugin (entry point ``pytest11``), so a test only names it::

    def test_backward(gradient_check):
        gradient_check(MyFunction.apply, reference, [torch.randn(5, 3, requires_grad=True)])
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lean_mnist.crosscheck.report import FunctionReport


@pytest.fixture
def gradient_check() -> "Callable[..., FunctionReport]":
    """``gradient_check(function, reference, inputs, **options)``: returns the report, or fails the test with it.

    Options are those of ``check_function``. The seed is fresh each time unless given, and the report tells it.
    """

    def check(
        function: Callable[..., Any], reference: Callable[..., Any] | None, inputs: Sequence[Any], **options: Any
    ) -> "FunctionReport":
        __tracebackhide__ = True
        from lean_mnist.crosscheck.function_check import check_function  # PyTorch is imported by tests that ask

        report = check_function(function, reference, inputs, **options)
        if not report.ok:
            pytest.fail(str(report), pytrace=False)
        return report

    return check
