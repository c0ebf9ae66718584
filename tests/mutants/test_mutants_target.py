"""Planting in somebody else's Function, and the self-test of such a target."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function

from lean_mnist.errors import ArgumentError, GradientMismatch
from lean_mnist.mutants import MUTANTS, for_target, mutant_named
from lean_mnist.mutants.planting import plant_in
from lean_mnist.mutants.report import Fate

GENERIC = [mutant.name for mutant in MUTANTS if mutant.generic]
CAUGHT = ("node-sign", "node-scale-1.001", "node-rows-swapped", "node-last-input", "node-upstream-ones", "node-stale")


class RMSNorm(Function):
    """``x / sqrt(mean(x²) + ε) · w``, along the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        ctx.epsilon = epsilon
        ctx.save_for_backward(x, weight)
        return x * (x * x).mean(-1, keepdim=True).add(epsilon).rsqrt() * weight

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        r = (x * x).mean(-1, keepdim=True).add(ctx.epsilon).rsqrt()
        gw = g * weight
        return r * gw - x * r**3 * (gw * x).mean(-1, keepdim=True), (g * x * r).sum(0), None


class Square(Function):
    """With ``vjp``, the other name of a backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def vjp(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


class Wrong(RMSNorm):
    """Every gradient of the input is twice the upstream gradient."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return 2 * g, None, None


def reference(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x * (x * x).mean(-1, keepdim=True).add(epsilon).rsqrt() * weight


def inputs() -> tuple[Tensor, Tensor, float]:
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(6, 7, generator=generator), torch.randn(7, generator=generator)
    return x.requires_grad_(), weight.requires_grad_(), 1e-6


def gradients(function: type[Function], *arguments: Any) -> tuple[Tensor, ...]:
    y = function.apply(*arguments)
    wanted = [a for a in arguments if isinstance(a, torch.Tensor)]
    return torch.autograd.grad(y, wanted, torch.arange(1.0, y.numel() + 1).reshape(y.shape))


@pytest.mark.parametrize("name", GENERIC)
def test_a_planted_function_keeps_its_forward_and_the_original_its_backward(name: str) -> None:
    before = vars(RMSNorm)["backward"]
    faulty = plant_in(RMSNorm, mutant_named(name))
    assert issubclass(faulty, RMSNorm)
    assert torch.equal(faulty.apply(*inputs()), RMSNorm.apply(*inputs()))
    assert vars(RMSNorm)["backward"] is before


def test_the_fault_is_in_the_planted_function_and_only_there() -> None:
    right = gradients(RMSNorm, *inputs())
    wrong = gradients(plant_in(RMSNorm, mutant_named("node-sign")), *inputs())
    assert all(torch.equal(-w, r) for w, r in zip(wrong, right, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(gradients(RMSNorm, *inputs()), right, strict=True))


def test_a_function_with_vjp_takes_a_fault_too() -> None:
    x = inputs()[0]
    (right,), (wrong,) = gradients(Square, x), gradients(plant_in(Square, mutant_named("node-twice")), x)
    assert torch.equal(wrong, 2 * right)


def test_a_fault_of_the_chain_rule_fits_no_other_function() -> None:
    with pytest.raises(ArgumentError, match="weight-sign is a fault of the chain rule"):
        plant_in(RMSNorm, mutant_named("weight-sign"))


def test_a_target_by_name_finds_reference_and_inputs_beside_it() -> None:
    found = for_target(f"{__name__}:RMSNorm", mutants=[mutant_named(name) for name in CAUGHT])
    assert found.ok, str(found)
    assert found.target == f"{__name__}:RMSNorm"
    assert found.score == 1
    # A value that is left over from another call is told only as one that does not repeat itself.
    assert {o.mutant.name for o in found.results if not o.named_rightly} <= {"node-stale"}, str(found)


def test_what_makes_no_difference_to_a_target_is_not_counted() -> None:
    chosen = [mutant_named(name) for name in ("node-sign", "node-wide", "weight-sign")]
    found = for_target(f"{__name__}:RMSNorm", mutants=chosen)
    fates = [(result.mutant.name, result.fate) for result in found.results]
    assert fates == [("node-sign", Fate.CAUGHT), ("node-wide", Fate.NOT_SHOWN)]
    assert found.ok
    assert "1 of 1 planted bugs caught" in found.verdict
    assert "1 make no difference here" in found.verdict


def test_where_nothing_makes_a_difference_nothing_passes() -> None:
    found = for_target(f"{__name__}:RMSNorm", mutants=[mutant_named("node-wide")])
    assert [result.fate for result in found.results] == [Fate.NOT_SHOWN]
    assert not found.ok
    assert found.verdict.startswith("FAILED: 0 of 0 planted bugs caught")


def test_what_only_our_own_functions_promise_is_not_asked_of_others() -> None:
    found = for_target(f"{__name__}:RMSNorm", mutants=[mutant_named("autocast-bfloat16")])
    assert found.results == ()


def test_a_mutant_that_check_function_lets_pass_is_reported_as_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lean_mnist.mutants.selftest.refused", lambda *arguments: None)
    found = for_target(f"{__name__}:RMSNorm", mutants=[mutant_named("node-sign")])
    assert found.results[0].fate is Fate.ESCAPED
    with pytest.raises(GradientMismatch, match="node-sign"):
        found.raise_if_failed()


def test_a_function_that_is_wrong_itself_is_said_so_and_nothing_is_planted() -> None:
    found = for_target(f"{__name__}:Wrong")
    assert not found.ok
    assert found.results == ()
    assert "with nothing planted, 1 of 1 controls were refused" in found.verdict


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere", "target: expected module:name or file.py:name, found 'nowhere'"),
        ("no_such_module:Function", "target: cannot import no_such_module"),
        (f"{__name__}:Nothing", "has no Nothing"),
        (f"{__name__}:reference", "expected a subclass of torch.autograd.Function"),
    ],
)
def test_a_target_that_is_not_there_is_one_line(target: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        for_target(target)


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ("inputs, reference = 5, sin", "inputs: expected a list of the arguments of apply, found int"),
        ("inputs, reference = (lambda: {}['no']), sin", "inputs: the function that makes them raised KeyError: 'no'"),
        ("inputs, reference = [ones(3)], sin", "inputs: expected at least one floating tensor with requires_grad"),
        ("inputs, reference = [ones(3, requires_grad=True)], 7", "reference: expected a function, found int"),
        ("inputs, reference = [ones(3, requires_grad=True)], sin", "function: its forward raised TypeError"),
    ],
)
def test_what_cannot_be_asked_is_no_failed_check(beside: str, message: str, tmp_path: Path) -> None:
    lines = ["from torch import ones, sin", f"from {__name__} import RMSNorm", "class Same(RMSNorm): pass", beside]
    (tmp_path / "mine.py").write_text("\n".join(lines))
    with pytest.raises(ArgumentError, match=message):
        for_target(f"{tmp_path / 'mine.py'}:Same")  # of this file, not of the one of that name before it


def test_a_target_whose_module_raises_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ArgumentError, match=r"cannot import .*broken.py \(ZeroDivisionError: .*, line 1\)"):
        for_target(f"{tmp_path / 'broken.py'}:Function")
