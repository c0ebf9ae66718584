"""``check_module``: a module's parameters and inputs as the subject, its state and mode as they are."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lean_mnist.crosscheck import Severity, Verdict, check_module
from lean_mnist.errors import ArgumentError
from tests.support.written_functions import SetupContext, WrongSetupContext


class Block(nn.Module):
    """A custom Function between layers of which one has state; its forward may be computed again in the backward."""

    def __init__(self, function: Any = SetupContext, again: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3, bias=False)
        self.last.weight.requires_grad_(False)
        self.function, self.again = function, again

    def _middle(self, x: Any) -> Any:
        return self.function.apply(nn.functional.linear(x, self.first.weight, self.first.bias))

    def forward(self, x: Any, scale: Any = 1.0) -> Any:
        h = checkpoint(self._middle, x, use_reentrant=False) if self.again else self._middle(x)
        return self.last(nn.functional.dropout(self.norm(h) * scale, 0.3, self.training))


def plain(x: Any) -> Any:
    return x * x.tanh()


class Plain:
    apply = staticmethod(plain)


def leaf(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).requires_grad_()


def test_a_module_of_pytorch() -> None:
    report = check_module(nn.LayerNorm(8), [leaf(3, 8)], seed=1)
    assert report.ok, report
    assert set(report.judged_by) == {"input 0", "weight", "bias"}

    def reference(module: Any, x: Any) -> Any:
        return nn.functional.layer_norm(x, (8,), module.weight * 1.001, module.bias)

    report = check_module(nn.LayerNorm(8), [leaf(3, 8)], reference, seed=1)
    assert {"output 0", "weight"} <= {f.subject for f in report.failures}


@pytest.mark.parametrize("again", [False, True])
def test_parameters_buffers_and_random_numbers_in_training_mode(again: bool) -> None:
    module = Block(again=again).train()
    before = {name: (x, x.clone()) for name, x in module.state_dict(keep_vars=True).items()}
    report = check_module(module, {"x": leaf(4, 6), "scale": 0.5}, Block(Plain), seed=1)
    assert report.ok, report
    assert set(report.judged_by) == {"x", "first.weight", "first.bias", "norm.weight", "norm.bias"}
    after = module.state_dict(keep_vars=True)
    assert all(after[name] is x and torch.equal(x, copy) for name, (x, copy) in before.items())
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("again", [False, True])
def test_a_wrong_function_in_a_module(again: bool) -> None:
    for reference in (Block(Plain).eval(), None):
        report = check_module(Block(WrongSetupContext, again).eval(), [leaf(4, 6)], reference, seed=1)
        assert report.verdict is Verdict.FAILED
        wrong = {f.subject for f in report.failures if f.severity is Severity.ERROR}
        assert {"input 0", "first.weight", "first.bias"} <= wrong
        assert not {"norm.weight", "norm.bias"} & wrong


def test_tied_weights_are_one_parameter() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    report = check_module(module, [leaf(3, 4)], seed=1)
    assert report.ok, report
    assert "2.weight" not in report.judged_by
    assert module[2].weight is module[0].weight


def test_modules_that_make_no_sense() -> None:
    with pytest.raises(ArgumentError, match=r"module: expected a torch.nn.Module, found function"):
        check_module(plain, [leaf(3)])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"found weight, lazy; call the module once"):
        check_module(nn.LazyLinear(3), [leaf(3)])
    with pytest.raises(ArgumentError, match=r"reference: expected parameters and buffers weight, bias, found weight"):
        check_module(nn.Linear(3, 2), [leaf(3)], nn.Linear(3, 2, bias=False))
