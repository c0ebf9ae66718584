"""Arguments and results of any structure: complex, nested, by keyword; what is no number is handed on as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist.crosscheck import Severity, Verdict, check_function
from lean_mnist.crosscheck.bundles.bundle import load_bundle, question_of
from tests.support.written_functions import ComplexProduct, SetupContext, WithoutConjugate, WrongSetupContext


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype).requires_grad_()


def errors(report: Any) -> set[str]:
    return {f.rule for f in report.failures if f.severity is Severity.ERROR}


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_gradients_follow_the_convention_of_pytorch(dtype: torch.dtype) -> None:
    inputs = [leaf(3, 4, dtype=dtype), leaf(3, 4, dtype=dtype)]
    for reference in (torch.mul, None):
        report = check_function(ComplexProduct.apply, reference, inputs, seed=1)
        assert report.ok, report
        assert report.gradcheck == "passed"
        report = check_function(WithoutConjugate.apply, reference, inputs, seed=1)
        assert report.verdict is Verdict.FAILED
        assert {"finite differences", "gradcheck"} <= errors(report)


def test_layouts_of_complex_inputs_are_those_of_complex_numbers() -> None:
    class Reads(ComplexProduct):
        @staticmethod
        def forward(ctx: Any, a: Any, b: Any) -> Any:
            ctx.save_for_backward(a, b)
            return torch.as_strided(a, a.shape, (a.shape[1], 1)) * b

    report = check_function(Reads.apply, torch.mul, [leaf(3, 4, dtype=torch.complex64) for _ in range(2)], seed=1)
    assert "input layout" in {f.rule for f in report.failures}


def test_nested_arguments_by_keyword_and_nested_results(tmp_path: Path) -> None:
    def function(*, pair: Any, shape: Any, apply: Any = SetupContext.apply) -> Any:
        return {"y": apply(pair["a"]) * pair["b"][0], "rest": [pair["a"].sum(), 3, None], "shape": shape}

    inputs = {"pair": {"a": leaf(3, 4), "b": [leaf(4)]}, "shape": (2, 2)}
    report = check_function(function, None, inputs, seed=1)
    assert report.ok, report
    assert set(report.judged_by) == {"pair['a']", "pair['b'][0]"}

    def wrong(*, pair: Any, shape: Any) -> Any:
        return function(pair=pair, shape=shape, apply=WrongSetupContext.apply)

    report = check_function(wrong, function, inputs, seed=1)
    assert report.verdict is Verdict.FAILED
    assert {f.subject for f in report.failures if f.rule == "gradient"} == {"pair['a']"}
    report.save_bundle(tmp_path / "bundle.pt")
    again, options = question_of(tmp_path / "bundle.pt", load_bundle(tmp_path / "bundle.pt"))
    assert str(check_function(wrong, function, again, **options)) == str(report)


def test_sparse_and_float8_tensors_are_handed_on_where_no_gradient_is_asked() -> None:
    def function(x: Any, sparse: Any, scale: Any) -> Any:
        assert scale.dtype == torch.float8_e4m3fn
        return torch.sparse.mm(sparse, x) * scale.to(x.dtype)

    inputs = [leaf(3, 3), torch.eye(3).to_sparse(), torch.full((3,), 0.5).to(torch.float8_e4m3fn)]
    report = check_function(function, None, inputs, seed=1)
    assert report.ok, report


@pytest.mark.parametrize(("apply", "ok"), [(SetupContext.apply, True), (WrongSetupContext.apply, False)])
def test_functions_used_through_torch_func(apply: Any, ok: bool) -> None:
    def reference(x: Any) -> Any:
        return x * x.tanh()

    def gradient(f: Any) -> Any:
        return torch.func.grad(lambda x: f(x).sum())

    x = leaf(3, 4)
    for used in (lambda f: f, lambda f: torch.vmap(f), lambda f: torch.vmap(torch.vmap(f), in_dims=1)):
        report = check_function(used(apply), used(reference), [x], seed=1)
        assert report.ok == ok, report
    # What is checked is the gradient as a function, so that a wrong one is another output than the reference's.
    report = check_function(gradient(apply), gradient(reference), [x], seed=1)
    assert report.ok == ok, report
    if not ok:
        assert "output" in errors(report)
