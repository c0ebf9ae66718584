"""Each rule is seen to fail on a Function that breaks it, and the diagnosis names the fault."""

from typing import Any

import pytest
import torch

from lean_mnist.crosscheck.function_check import RULES, check_function
from lean_mnist.crosscheck.report import Verdict
from lean_mnist.errors import GradientMismatch
from tests.support.function_corpus import RIGHT
from tests.support.planted_faults import LINEAR, OTHER, WRONG_VALUES, linear, made, square, zero_tail


def check(fault: Any, reference: Any = True, **options: Any) -> Any:
    reference = fault.reference if reference else None
    options = {"vary_batch": fault.vary_batch, "vary_sizes": fault.vary_sizes, "fail_on": "warning", **options}
    return check_function(fault.function, reference, fault.inputs(), **options)


def findings(report: Any, fault: Any) -> Any:
    return [f for f in report.failures if f.rule == fault.rule and fault.subject in (f.subject, "")]


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_wrong_values_are_found_named_and_diagnosed(name: str) -> None:
    fault = WRONG_VALUES[name]
    report = check(fault, seed=3)
    found = findings(report, fault)
    assert found, report
    assert not report.ok
    assert any(fault.words in str(finding) for finding in found), report
    assert not fault.kind or found[0].diagnosis.kind == fault.kind, found[0]
    if fault.subject:
        wrong = {f.subject for f in report.failures if f.rule == fault.rule}
        assert fault.subject in wrong
        assert len(wrong) < len(LINEAR) or fault.kind == "upstream ignored"
    with pytest.raises(GradientMismatch, match="FAILED"):
        report.raise_if_failed()


@pytest.mark.parametrize("name", OTHER)
def test_broken_contracts_are_found_by_the_rule_that_is_there_for_it(name: str) -> None:
    fault = OTHER[name]
    report = check(fault, seed=3)
    found = findings(report, fault)
    assert found, report
    assert any(fault.words in str(finding) for finding in found), report
    assert not fault.kind or found[0].diagnosis.kind == fault.kind, found[0]


SEEN_BY_NOTHING_ELSE = {
    "upstream gradient": ("tiny ones taken for zero", "eps added to it", "huge ones clamped", "scaled up inside"),
    "autocast": ("rounded under autocast", "a tenth too large under autocast"),
}


@pytest.mark.parametrize(
    ("rule", "name"), [(rule, name) for rule, names in SEEN_BY_NOTHING_ELSE.items() for name in names]
)
def test_what_one_rule_alone_is_there_for(rule: str, name: str) -> None:
    report = check(OTHER[name], seed=6)
    assert {f.rule for f in report.failures} == {rule}, report


WITHOUT_A_REFERENCE = (
    *("sign", "scale 1.0001", "rows swapped", "tail of the batch", "one element", "upstream ignored", "not a number"),
    *("None", "mask missing", "softmax without its sum", "fan-out"),
)


@pytest.mark.parametrize("name", WITHOUT_A_REFERENCE)
def test_wrong_values_are_found_without_a_reference(name: str) -> None:
    fault = WRONG_VALUES[name]
    report = check(fault, reference=False, seed=4)
    wrong = {f.subject for f in report.failures if f.rule in ("finite differences", "gradcheck", "Taylor test")}
    assert not report.ok
    assert fault.subject in wrong, report
    assert "no reference, so the forward itself was not checked" in str(report)


# The other rules never look at a reference.
ASK_ELSE = ("double backward", "autocast", "batch size", "size", "special values")


@pytest.mark.parametrize(
    "name", [name for name, fault in OTHER.items() if fault.rule in ASK_ELSE and "together" not in fault.words]
)
def test_broken_contracts_are_found_without_a_reference(name: str) -> None:
    fault = OTHER[name]
    report = check(fault, reference=False, seed=4)
    assert findings(report, fault), report


@pytest.mark.parametrize("rule", ["finite differences", "Taylor test", "JVP-VJP product", "gradcheck"])
@pytest.mark.parametrize("name", ["sign", "factor 2", "rows swapped", "one element"])
def test_every_oracle_sees_a_wrong_gradient_by_itself(rule: str, name: str) -> None:
    report = check(WRONG_VALUES[name], seed=5, skip=[other for other in RULES if other != rule and other != "output"])
    if rule == "Taylor test":  # asked together with the differences
        report = check(WRONG_VALUES[name], seed=5, skip=[r for r in RULES if r not in (rule, "finite differences")])
    assert rule in {f.rule for f in report.failures}, report


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_wrong_in_every_precision(dtype: torch.dtype) -> None:
    fault = WRONG_VALUES["tail of the batch"]
    for reference in (fault.reference, None):
        report = check_function(fault.function, reference, fault.inputs(dtype=dtype), seed=1)
        assert not report.ok, report


def test_a_small_error_in_float64_is_seen() -> None:
    function = square(lambda ctx, saved, g: 2 * (1 + 1e-8) * saved[0] * g)
    x = [torch.randn(6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()]
    for reference in (lambda x: x * x, None):
        rules = {f.rule for f in check_function(function, reference, x, seed=2).failures}
        assert "finite differences" in rules
    assert {"gradient", "JVP-VJP product"} <= {
        f.rule for f in check_function(function, torch.square, x, seed=2).failures
    }


def test_a_fault_of_one_dtype_is_seen_without_a_reference() -> None:
    """Right in float64, where gradcheck looks, and wrong in float32, which trains."""
    function = square(lambda ctx, saved, g: 2 * saved[0] * g * (1.001 if g.dtype == torch.float32 else 1.0))
    report = check_function(function, None, WRONG_VALUES["mask missing"].inputs(), seed=2)
    assert {(f.rule, "float32" in f.text) for f in report.failures} == {("finite differences", True)}, report
    assert report.gradcheck == "passed"


@pytest.mark.parametrize("rule", ["upstream layout", "double backward", "gradcheck"])
def test_skip_leaves_a_rule_out(rule: str) -> None:
    names = {"upstream layout": "views it", "double backward": "second derivative silently zero"}
    fault = OTHER.get(names.get(rule, ""), WRONG_VALUES["sign"])
    report = check(fault, seed=1, skip=[rule])
    assert rule not in {f.rule for f in report.findings}
    if rule in names:
        assert report.ok, report


def test_failures_come_first_and_one_to_a_line() -> None:
    report = check(WRONG_VALUES["sign"], seed=1)
    first, *lines = report.details().splitlines()
    assert first == "FAILED (seed 1)"
    assert len(lines) == len(report.findings) + 1
    verdicts = [line.split()[0] for line in lines[:-1]]
    assert verdicts == sorted(verdicts, key=["ERROR", "WARNING", "kink", "passed", "not"].index)
    assert "probes: an error 100 times" in lines[-1]


def test_more_probes_more_confidence() -> None:
    fault = RIGHT["product"]
    notes = [check_function(fault.function, fault.reference, fault.inputs(0), probes=k, seed=1).note for k in (1, 4)]
    assert "below 8.0e-03" in notes[0]
    assert "below 4.1e-09" in notes[1]


# Kinks are a verdict of their own.


def at_zero(slope: float) -> Any:
    return made(lambda x: x.clamp(min=0), lambda ctx, saved, g: g * ((saved[0] > 0) + slope * (saved[0] == 0)))


@pytest.mark.parametrize("reference", [torch.relu, None])
@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_any_slope_at_a_kink_is_a_kink_and_no_failure(slope: float, reference: Any) -> None:
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    x[2, 3] = x[4, 1] = 0.0
    report = check_function(at_zero(slope), reference, [x.requires_grad_()], seed=1)
    assert report.ok, report
    assert Verdict.KINK in {f.verdict for f in report.findings}


@pytest.mark.parametrize("reference", [torch.relu, None])
def test_a_kink_excuses_nothing_else(reference: Any) -> None:
    function = made(lambda x: x.clamp(min=0), lambda ctx, saved, g: zero_tail(g * (saved[0] > 0), 1))
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    x[2, 3] = x[4, 1] = 0.0
    report = check_function(function, reference, [x.requires_grad_()], seed=1)
    assert not report.ok
    assert "finite differences" in {f.rule for f in report.failures}, report


def test_kinks_that_lie_closer_than_float32_tells() -> None:
    """A pre-activation that rounding puts on the other side."""
    w = torch.tensor([[1.0, 1.0, 1.0]])
    x = torch.tensor([[1.0, -(2.0**-25), -1.0], [0.5, 0.25, 1.0]])  # 1 − 2⁻²⁵ rounds to 1, and the sum to 0

    function = made(
        lambda x, w: (x[:, :1] * w[:, 0] + x[:, 1:2] * w[:, 1] + x[:, 2:] * w[:, 2]).clamp(max=0),
        lambda ctx, s, g: (
            (d := g * ((s[0] * s[1]).cumsum(1)[:, -1:] < 0)) @ s[1],
            d.T @ s[0],
        ),
    )
    report = check_function(
        function,
        lambda x, w: (x.flip(1) * w.flip(1)).sum(1, keepdim=True).clamp(max=0),
        [x.requires_grad_(), w.requires_grad_()],
        seed=1,
    )
    assert report.ok, report


def test_linear_is_not_changed_by_the_check() -> None:
    """The control: the harness that plants is itself right."""
    report = check_function(linear(lambda v, x, w, g: v), torch.nn.functional.linear, OTHER_INPUTS(), seed=1)
    assert report.ok, report


def OTHER_INPUTS() -> Any:  # noqa: N802
    return WRONG_VALUES["sign"].inputs()
