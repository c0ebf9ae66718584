"""Limits of time and memory, and rules that end without a finding: what others found stays, and nothing is passed."""

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from lean_mnist.crosscheck import check_function, rules
from lean_mnist.crosscheck.report import Verdict
from lean_mnist.crosscheck.rules import Rule, gradcheck
from lean_mnist.crosscheck.subjects.calls import NotChecked
from lean_mnist.errors import ArgumentError

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
]


def x() -> Any:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()


class Doubled(torch.autograd.Function):
    """A wrong backward: twice the gradient of SiLU, and, where told, no memory for strided upstream gradients."""

    error: Exception | None = None

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return silu(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if Doubled.error is not None and not upstream[0].is_contiguous():
            raise Doubled.error
        s = x.sigmoid()
        return 2 * upstream[0] * (s + x * s * (1 - s))


def of_rule(report: Any, name: str) -> Any:
    return [finding for finding in report.findings if finding.rule == name]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_memory_that_runs_out_in_one_rule_leaves_what_others_found(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Doubled, "error", error)
    report = check_function(Doubled.apply, silu, [x()], seed=1)
    assert {"gradient", "finite differences"} <= {failure.rule for failure in report.failures}
    (layout,) = of_rule(report, "upstream layout")
    assert layout.verdict is Verdict.NOT_APPLICABLE
    assert "out of memory" in layout.text


def test_memory_that_runs_out_at_the_first_call_is_inconclusive() -> None:
    def function(x: Tensor) -> Tensor:
        raise OUT_OF_MEMORY[-1]

    report = check_function(function, None, [x()], seed=1)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "out of memory" in report.findings[0].text


def with_rules(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    monkeypatch.setattr(rules, "RULES", tuple(map(change, rules.RULES)))


def test_an_internal_error_of_every_oracle_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(rule: Rule) -> Rule:
        def ask(ctx: Any) -> Any:
            raise KeyError("our own")

        return replace(rule, ask=ask) if rule.oracle else rule

    with_rules(monkeypatch, broken)
    report = check_function(silu, silu, [x()], seed=1)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert not report.ok
    assert "internal error, KeyError" in of_rule(report, "finite differences")[0].text


def test_an_interrupt_leaves_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(rule: Rule) -> Rule:
        def ask(ctx: Any) -> Any:
            raise KeyboardInterrupt

        return replace(rule, ask=ask)

    with_rules(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        check_function(silu, silu, [x()], seed=1)


def test_what_the_time_limit_leaves_out_is_listed() -> None:
    report = check_function(silu, silu, [x()], seed=1, time_limit=1e-9)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert all("time limit" in of_rule(report, rule)[0].text for rule in ("gradient", "replay", "autocast"))


def slowly(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that takes a second a call, by a clock that counts its calls."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def function(x: Tensor) -> Tensor:
        now[0] += 1
        return Doubled.apply(x)

    return function


def test_a_time_limit_ends_a_slow_check_with_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    report = check_function(slowly(monkeypatch), silu, [x()], seed=1, time_limit=40)
    assert report.verdict is Verdict.FAILED
    assert "time limit" in of_rule(report, "autocast")[0].text


def test_gradcheck_is_not_asked_for_longer_than_the_rest_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradcheck, "GRADCHECK_SECONDS", 2.0)
    many = torch.randn(40, 40, generator=torch.Generator().manual_seed(1)).requires_grad_()
    report = check_function(slowly(monkeypatch), silu, [many], seed=1)
    assert report.gradcheck == "not run: 1,600 numbers would take it some 3200 s"


def test_what_does_not_fit_in_memory_is_listed() -> None:
    report = check_function(silu, silu, [x()], seed=1, max_memory=12 * 2 * 4 * 24)
    assert report.ok
    assert of_rule(report, "gradient")[0].verdict is Verdict.PASSED
    assert "max_memory" in of_rule(report, "finite differences")[0].text
    report = check_function(silu, silu, [x()], seed=1, max_memory=1)
    assert report.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("reference", [None, silu])
def test_fast_asks_an_oracle_and_part_of_the_contract(reference: Any) -> None:
    report = check_function(silu, reference, [x()], seed=1, fast=True)
    assert report.ok
    asked = {f.rule for f in report.findings if f.verdict is not Verdict.NOT_APPLICABLE}
    assert {"finite differences", "upstream gradient", "mutation"} <= asked
    assert "gradcheck" not in asked
    assert check_function(Doubled.apply, reference, [x()], seed=1, fast=True).verdict is Verdict.FAILED


@pytest.mark.parametrize("options", [{"time_limit": 0}, {"max_memory": -1}, {"time_limit": "1"}])
def test_limits_are_numbers_above_zero(options: Any) -> None:
    with pytest.raises(ArgumentError, match="expected a number above 0"):
        check_function(silu, None, [x()], **options)


def test_an_exception_of_a_function_is_not_taken_for_ours() -> None:
    assert NotChecked.of(RuntimeError("size mismatch")) is None
