"""A compiled model gives what it gives eager; what was not compiled is not said to have been checked."""

from typing import Any

import pytest
import torch
from torch import nn

from lean_mnist.crosscheck import Severity, Verdict, check_compiled, check_function, check_sharded
from lean_mnist.errors import ArgumentError
from tests.support.written_functions import SetupContext


class Model(nn.Module):
    """A custom Function between layers of which one has state, and random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        return {"logits": self.last(nn.functional.dropout(SetupContext.apply(self.norm(self.first(x))), 0.2))}


def leaf(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).requires_grad_()


def scaling_gradients(factor: float) -> Any:
    """A backend that multiplies every gradient by ``factor``."""
    from functorch.compile import make_boxed_func  # type: ignore[import-untyped]
    from torch._dynamo.backends.common import aot_autograd

    def scaled(graph: Any, example: Any) -> Any:
        def run(*arguments: Any) -> Any:
            return [x if x is None else x * factor for x in graph(*arguments)]

        return make_boxed_func(run)

    return aot_autograd(fw_compiler=lambda graph, _: make_boxed_func(graph), bw_compiler=scaled)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", scaling_gradients(1.0)])
def test_a_model_that_compiles_right(backend: Any) -> None:
    torch.manual_seed(0)
    model = Model()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    report = check_compiled(model, [leaf(5, 6)], backend=backend, seed=1)
    assert report.ok, report
    names = {f.subject for f in report.findings}
    assert {"output 0", "buffer norm.running_mean", "gradient of input 0", "gradient of last.bias"} <= names
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("factor", [0.5, 0.0, 1.001])
def test_gradients_that_a_backend_scales_are_errors(factor: float) -> None:
    report = check_compiled(Model(), [leaf(5, 6)], backend=scaling_gradients(factor), seed=1)
    assert report.verdict is Verdict.FAILED
    assert {"gradient of input 0", "gradient of last.weight"} <= {f.subject for f in report.failures}
    assert all(f.severity in (None, Severity.ERROR) for f in report.failures)
    assert "torch.compiler.disable" in str(report)


def test_a_gradient_that_is_dropped_under_compilation() -> None:
    def function(*, x: Any) -> Any:
        return x.sin() + (x.detach() if torch.compiler.is_compiling() else x)

    report = check_compiled(function, {"x": leaf(3, 4)}, backend="aot_eager", seed=1)
    assert [f.subject for f in report.failures] == ["gradient of x"]
    # The eager twin of what is compiled already is the function that it was made of.
    report = check_compiled(torch.compile(function, backend="eager"), {"x": leaf(3, 4)}, backend="eager", seed=1)
    assert report.verdict is Verdict.FAILED


def test_a_complex_model() -> None:
    model = nn.Linear(3, 2, dtype=torch.complex64)
    inputs = [torch.randn(4, 3, dtype=torch.complex64, requires_grad=True)]
    report = check_compiled(model, inputs, backend="aot_eager", seed=1)
    assert report.ok, report
    report = check_compiled(model, inputs, backend=scaling_gradients(0.5), seed=1)
    assert {"gradient of input 0", "gradient of weight", "gradient of bias"} == {f.subject for f in report.failures}


def test_a_parameter_of_the_name_of_an_argument_is_compared_beside_it() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, scale: torch.Tensor) -> torch.Tensor:
            return scale * self.scale.sin()

    report = check_compiled(Scaled(), {"scale": leaf(3)}, backend="eager", seed=1)
    assert report.ok
    assert {f.subject for f in report.findings} == {"output 0", "gradient of scale", "gradient of the model's scale"}


def test_what_was_not_compiled_is_inconclusive() -> None:
    sine = torch.compiler.disable(lambda x: x.sin())
    report = check_compiled(lambda x: sine(x), [leaf(3)], backend="eager", seed=1)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "nothing was compiled" in str(report)


def test_a_compilation_that_fails_and_a_model_that_does_not_run() -> None:
    def backend(graph: Any, example: Any) -> Any:
        raise NotImplementedError("no such operation")

    report = check_compiled(torch.sin, [leaf(3)], backend=backend, seed=1)
    assert report.verdict is Verdict.FAILED
    assert "no such operation" in str(report)
    with pytest.raises(ArgumentError, match=r"model: eager it raised RuntimeError: mat1 and mat2 shapes"):
        check_compiled(Model(), [leaf(5, 7)], backend="eager")
    with pytest.raises(ArgumentError, match=r"expected a parameter or an input that requires a gradient"):
        check_compiled(torch.sin, [torch.ones(3)], backend="eager")
    with pytest.raises(ArgumentError, match=r"backend: expected one of torch.compile; Invalid backend: 'none'"):
        check_compiled(torch.sin, [leaf(3)], backend="none")
    for wrong in (-1e-3, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match=r"tolerance: expected a number of at least 0, found"):
            check_compiled(torch.sin, [leaf(3)], backend="eager", tolerance=wrong)
    with pytest.raises(ArgumentError, match=r"probes: expected a whole number of at least 1, found 0"):
        check_compiled(torch.sin, [leaf(3)], probes=0)
    with pytest.raises(ArgumentError, match=r"fail_on: expected one of error, warning, note, found 'errors'"):
        check_compiled(torch.sin, [leaf(3)], backend="eager", fail_on="errors")


def test_generators_of_a_gpu_in_use_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    states, seeded = {0: torch.tensor([7])}, list[int]()

    def seed_all(seed: int) -> None:
        seeded.append(seed)
        states[0] = torch.tensor([seed])

    for name, stand_in in (
        ("is_initialized", lambda: True),
        ("device_count", lambda: 1),
        ("get_rng_state", lambda device: states[device]),
        ("set_rng_state", lambda state, device: states.update({device: state})),
        ("manual_seed_all", seed_all),
    ):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    assert check_compiled(torch.sin, [leaf(3)], backend="eager", seed=1).ok
    assert seeded
    assert states[0].tolist() == [7]
    with pytest.raises(ArgumentError, match="expected one that draws no random numbers"):
        check_sharded(lambda: nn.Sequential(nn.Linear(6, 2), nn.Dropout(0.5)), [leaf(6, 6)], seed=2)
    assert states[0].tolist() == [7]


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_a_function_of_compiled_formulas_is_compiled_a_few_times_only(factor: float) -> None:
    forward = torch.compile(lambda x: x * torch.sigmoid(x), backend="eager")

    @torch.compile(backend="eager")
    def backward(g: Any, x: Any) -> Any:
        return factor * g * torch.sigmoid(x) * (1 + x * (1 - torch.sigmoid(x)))

    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return forward(x)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return backward(g, *ctx.saved_tensors)

    stats = torch._dynamo.utils.counters["stats"]
    before = stats["unique_graphs"]
    report = check_function(Swish.apply, nn.functional.silu, [leaf(4, 6)], seed=1)
    assert report.ok == (factor == 1), report
    assert 1 <= stats["unique_graphs"] - before <= 8
    assert [f.label for f in report.findings if f.rule == "compilation"] == ["NOTE"]


def test_one_function_after_the_other_is_compiled() -> None:
    """However often: without a care ``torch.compile`` gives up after eight functions of the same code."""

    def scaled(factor: float) -> Any:
        return lambda x: factor * x.sin()

    for number in range(12):
        assert check_compiled(scaled(number + 1.0), [leaf(3, 2)], backend="eager", seed=1, probes=1).ok
