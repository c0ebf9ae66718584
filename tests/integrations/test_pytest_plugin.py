"""The pytest plugin: its fixture here, and in a pytest of its own.

Nothing of it runs in a pytest inside of this process, which on its way out unloads modules that cannot be loaded again.
"""

import importlib.util
from importlib.metadata import distributions
from typing import Any

import pytest
import torch

from tests.support.integrations_models import WIDTH, SwitchedRMSNorm

pytest_plugins = ["pytester"]

PLUGIN = "lean_mnist.integrations.pytest_plugin"
TESTS = """
import torch
from torch.autograd import Function

class Cube(Function):
    factor = 3

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return Cube.factor * g * ctx.saved_tensors[0] ** 2

def check(gradient_check):
    x = torch.linspace(0.5, 2, 4, requires_grad=True)
    return gradient_check(Cube.apply, lambda x: x**3, [x], names=["x"], seed=5)

def test_right(gradient_check):
    assert check(gradient_check).ok

def test_wrong(gradient_check, monkeypatch):
    monkeypatch.setattr(Cube, "factor", 2)
    check(gradient_check)
"""


@pytest.mark.parametrize("wrong", [False, True])
def test_the_fixture(gradient_check: Any, monkeypatch: pytest.MonkeyPatch, wrong: bool) -> None:
    monkeypatch.setattr(SwitchedRMSNorm, "wrong", wrong)
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator, requires_grad=True) for shape in ((5, WIDTH), (WIDTH,)))

    def check() -> Any:
        return gradient_check(SwitchedRMSNorm.apply, None, [x, weight], names=["x", "weight"], seed=5)

    if wrong:
        with pytest.raises(pytest.fail.Exception, match=r"^FAILED \(seed 5\)\n  ERROR  finite differences, x: "):
            check()
    else:
        assert check().seed == 5


def test_it_is_there_once_the_package_is_installed(pytester: pytest.Pytester) -> None:
    # As pytest looks: in every distribution, for an old egg-info in the checkout would hide the installed one.
    registered = [point for distribution in distributions() for point in distribution.entry_points]
    assert {point.value for point in registered if (point.group, point.name) == ("pytest11", "lean_mnist")} == {PLUGIN}
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    gradient = "  ERROR  gradient of x*likely constant factor: 0.666667 times the reference*"
    result.stdout.fnmatch_lines(["*_ test_wrong _*", "FAILED (seed 5)", gradient])
    result.stdout.no_fnmatch_line("*check_function(*")  # the report, and no traceback through our code


def test_it_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(f"""
        import sys

        def test_what_is_imported():
            assert {PLUGIN!r} in sys.modules
            assert not {{"torch", "numpy", "lean_mnist.crosscheck"}} & set(sys.modules)
    """)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_it_can_be_imported_again() -> None:
    """pytest imported it before coverage was measured."""
    spec = importlib.util.find_spec(PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert again.gradient_check.name == "gradient_check"
