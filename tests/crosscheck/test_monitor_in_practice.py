"""``GradientMonitor`` on what programs do: losses beside logits, backwards that fail, scaled losses, half precision."""

import dataclasses
from collections import OrderedDict, UserDict, defaultdict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lean_mnist.crosscheck.monitor import GradientMonitor
from lean_mnist.crosscheck.monitor.reasons import Reason
from lean_mnist.errors import GradientMismatch
from tests.crosscheck.test_monitor import WIDTH, Norm, at, spoilt
from tests.support.function_corpus import RMSNorm


class Direct(nn.Module):
    """Calls its Function itself, and returns ``outputs(loss, logits)``."""

    def __init__(self, outputs: Any, function: Any = RMSNorm) -> None:
        super().__init__()
        self.linear, self.weight = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.linspace(0.5, 1.5, WIDTH))
        self.outputs, self.function = outputs, function

    def forward(self, x: Any) -> Any:
        logits = self.function.apply(self.linear(x), self.weight)
        return self.outputs(logits.sin().mean(), logits)


WRONG = spoilt(RMSNorm, at(0, lambda v: 1.1 * v))
RETURNED = {
    "loss and logits": lambda loss, logits: (loss, logits),
    "logits and loss": lambda loss, logits: (logits, loss),
    "one tensor twice": lambda loss, logits: (logits, logits),
    "a view beside it": lambda loss, logits: (logits[0], logits),
}


@pytest.mark.parametrize("name", RETURNED)
@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)])
def test_outputs_made_of_other_outputs(name: str, used: Any) -> None:
    for function, right in ((RMSNorm, True), (WRONG, False)):
        torch.manual_seed(0)
        model = Direct(RETURNED[name], function)
        monitor = GradientMonitor(model, on_mismatch=lambda report: None, seed=0)
        outputs = model(torch.randn(5, WIDTH))
        sum(outputs[k].sin().sum() for k in used).backward()
        (report,) = monitor.history
        assert report.checked
        assert report.ok is right, str(report)


class FailsOnce(torch.autograd.Function):
    failed = False

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        if not FailsOnce.failed:
            FailsOnce.failed = True
            raise RuntimeError("out of memory")
        return g


def test_it_goes_on_after_a_backward_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailsOnce, "failed", False)
    torch.manual_seed(0)
    norm = Norm(WIDTH)
    monitor = GradientMonitor(norm, every=1, seed=0)

    def backward() -> None:
        norm(FailsOnce.apply(torch.randn(5, WIDTH, requires_grad=True))).square().mean().backward()

    with pytest.raises(RuntimeError, match="out of memory"):
        backward()
    backward()
    assert [report.step for report in monitor.history] == [1]
    norm.function = WRONG
    with pytest.raises(GradientMismatch):
        backward()


def test_a_loss_scale_too_large_is_no_fault() -> None:
    for scale, told in ((2.0**10, True), (2.0**40, False)):
        torch.manual_seed(0)
        model = Norm(WIDTH)
        monitor = GradientMonitor(nn.Sequential(model), seed=0)
        with torch.autocast("cpu", torch.float16):
            loss = monitor.model(torch.randn(5, WIDTH)).half().float().sin().mean()
        (scale * loss).backward()
        (report,) = monitor.history
        assert report.checked is told, str(report)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inside", [False, True])
def test_the_backward_inside_of_autocast(dtype: torch.dtype, inside: bool) -> None:
    for function, right in ((RMSNorm, True), (WRONG, False)):
        torch.manual_seed(0)
        model = nn.Sequential(Direct(lambda loss, logits: logits, function))
        monitor = GradientMonitor(model, on_mismatch=lambda report: None, seed=0)
        with torch.autocast("cpu", dtype):
            loss = model(torch.randn(5, WIDTH)).float().sin().mean()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        (report,) = monitor.history
        assert "passed  finite differences" in report.details() or not right, str(report)
        assert report.ok is right, str(report)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_throughout(dtype: torch.dtype) -> None:
    for function, right in ((RMSNorm, True), (WRONG, False)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(WIDTH, WIDTH), Norm(WIDTH, function)).to(dtype)
        monitor = GradientMonitor(model, on_mismatch=lambda report: None, seed=0)
        model(torch.randn(5, WIDTH, dtype=dtype)).float().sin().mean().backward()
        (report,) = monitor.history
        assert "passed  finite differences" in report.details() or not right, str(report)
        assert report.ok is right, str(report)


@dataclasses.dataclass(frozen=True)
class Record:
    x: Any


class Named(NamedTuple):
    x: Any


CONTAINERS: dict[str, Any] = {
    "dict": lambda x: {"x": x},
    "OrderedDict": lambda x: OrderedDict(x=x),
    "defaultdict": lambda x: defaultdict(list, x=x),
    "UserDict": lambda x: UserDict(x=x),
    "dataclass": Record,
    "named tuple": Named,
    "lists": lambda x: [(x,)],
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_arguments_and_results_in_containers(kind: str) -> None:
    def inside(value: Any) -> Any:
        return value[0][0] if kind == "lists" else value.x if hasattr(value, "x") else value["x"]

    class Contained(Norm):
        def forward(self, value: Any) -> Any:
            return CONTAINERS[kind](super().forward(inside(value)))

    class Whole(nn.Module):
        def __init__(self, function: Any) -> None:
            super().__init__()
            self.linear, self.part = nn.Linear(WIDTH, WIDTH), Contained(WIDTH, function)

        def forward(self, x: Any) -> Any:
            return self.part(CONTAINERS[kind](self.linear(x)))

    for function, right in ((RMSNorm, True), (WRONG, False)):
        torch.manual_seed(0)
        model = Whole(function)
        monitor = GradientMonitor(model, on_mismatch=lambda report: None, seed=0)
        inside(model(torch.randn(5, WIDTH))).sin().sum().backward()
        (report,) = monitor.history
        assert report.path == "part"
        assert report.checked
        assert report.ok is right, str(report)


def test_a_complex_tensor_that_needs_a_gradient_is_counted() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(WIDTH, dtype=torch.complex64))

        def forward(self, x: Any) -> Any:
            return FailsOnce.apply(x * self.weight.abs())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FailsOnce, "failed", True)
        monitor = GradientMonitor(Complex())
        monitor.model(torch.randn(5, WIDTH)).sum().backward()
    assert monitor.summary().not_applicable == {Reason.UNUSUAL_TENSORS.value: 1}
