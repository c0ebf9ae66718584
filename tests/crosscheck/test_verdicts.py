"""The weight of what fails, what nothing looked at, and gradients that are meant not to be the derivative."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lean_mnist.crosscheck import RULES, Severity, Verdict, check_function, check_module
from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.numerics.in_float64 import same_in_float64
from lean_mnist.crosscheck.subjects.calls import Subject
from lean_mnist.crosscheck.subjects.numbers import nearly_same
from lean_mnist.errors import ArgumentError


def function(forward: Any, backward: Any, **attributes: Any) -> Any:
    """The ``apply`` of a Function whose backward takes the upstream gradient and its inputs."""

    def keep(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return forward(*inputs)

    def back(ctx: Any, g: Tensor) -> Any:
        return backward(g, *ctx.saved_tensors)

    members = {"forward": staticmethod(keep), "backward": staticmethod(back), **attributes}
    made: Any = type("Planted", (torch.autograd.Function,), members)
    return made.apply


def points(*shape: int) -> list[Tensor]:
    return [torch.randn(*shape, generator=torch.Generator().manual_seed(0)).requires_grad_()]


def rounded(x: Tensor) -> Tensor:
    """8 bits a number."""
    scale = 127 / x.float().abs().amax(-1, keepdim=True)
    return ((x.float() * scale).round() / scale).to(x.dtype)


class Test8Bit:
    """Activations rounded to 8 bits, with a backward 30 % too large, which differences are too noisy to see."""

    @staticmethod
    def report(factor: float = 1.3, **options: Any) -> Any:
        return check_function(function(rounded, lambda g, x: factor * g), None, points(5, 4), seed=7, **options)

    def test_where_no_oracle_applies_it_is_not_passed(self) -> None:
        report = self.report()
        assert report.verdict is Verdict.INCONCLUSIVE
        assert not report.ok
        assert str(report).startswith("INCONCLUSIVE: of 4 oracles none applied to input 0 (seed 7)")
        assert report.judged_by == {"input 0": ()}

    @pytest.mark.parametrize("seed", range(8))
    def test_neither_a_second_estimate_nor_kinks_everywhere_make_it_pass(self, seed: int) -> None:
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        only = [rule for rule in RULES if rule not in ("finite differences", "Taylor test")]

        assert not check_function(function(rounded, lambda g, x: 1.3 * g), None, [x], seed=seed, skip=only).ok

    def test_said_to_be_intended_it_passes_with_one_line(self) -> None:
        report = self.report(intended="straight-through")
        assert report.ok
        (line,) = (str(f) for f in report.findings if f.severity is Severity.NOTE)
        assert line.startswith("NOTE  intended: straight-through: the gradient is meant not to be the derivative")

    def test_compared_with_what_it_is_the_derivative_of(self) -> None:
        assert self.report(1.0, derivative_of=lambda x: 1 * x).ok
        report = self.report(1.3, derivative_of=lambda x: 1 * x)
        assert {"gradient", "JVP-VJP product", "finite differences"} <= {f.rule for f in report.failures}


def test_an_empty_input_leaves_nothing_to_compare() -> None:
    wrong = function(torch.square, lambda g, x: g)
    assert check_function(wrong, torch.square, points(0, 3), seed=1).verdict is Verdict.INCONCLUSIVE


def test_a_second_derivative_is_a_warning() -> None:
    cut = function(torch.square, lambda g, x: 2 * x.detach() * g)
    report = check_function(cut, torch.square, points(3, 2), seed=1)
    assert [f.rule for f in report.warnings] == ["double backward"]
    assert str(report).startswith("passed with 1 warning (seed 1)\n  WARNING  double backward, input 0: silently zero")
    report = check_function(cut, torch.square, points(3, 2), seed=1, fail_on="warning")
    assert report.verdict is Verdict.FAILED
    assert report.failures == report.warnings


def test_as_many_warnings_are_counted_as_are_shown() -> None:
    report = check_function(function(torch.exp, lambda g, x: g.mul_(x.exp())), torch.exp, points(6, 4), seed=0)
    assert [f.rule for f in report.warnings] == ["upstream layout", "upstream layout", "mutation"]
    assert report.headline == "passed with 2 warnings (seed 0)"
    assert str(report).count("WARNING") == 2


class TestClassAttributes:
    """A Function that says of itself what its gradient is."""

    def test_intended(self) -> None:
        assert not check_function(function(torch.sign, lambda g, x: g), None, points(4), seed=1).ok
        assert check_function(function(torch.sign, lambda g, x: g, intended="surrogate"), None, points(4), seed=1).ok

    @pytest.mark.parametrize("factor", [1.0, 1.001])
    def test_derivative_of(self, factor: float) -> None:
        smooth = staticmethod(lambda x: torch.sigmoid(4 * x))

        def surrogate(g: Tensor, x: Tensor) -> Tensor:
            s = torch.sigmoid(4 * x)
            return factor * 4 * s * (1 - s) * g

        step = function(lambda x: (x > 0).to(x.dtype), surrogate, derivative_of=smooth)
        report = check_function(step, None, points(6, 3), seed=1)
        assert report.ok == (factor == 1.0), report

    def test_outputs_are_still_compared(self) -> None:
        step = function(lambda x: (x > 0).to(x.dtype), lambda g, x: g, intended="surrogate")
        report = check_function(step, lambda x: (x < 0).to(x.dtype) + 0 * x, points(6, 3), seed=1)
        assert {f.rule for f in report.failures} == {"output"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fail_on": "warnings"}, r"fail_on: expected one of error, warning, note, found 'warnings'"),
        ({"derivative_of": 3}, "derivative_of: expected a function, found int"),
        ({"derivative_of": lambda x: x.sum()}, "function: expected outputs of the derivative_of's shapes"),
        ({"tolerance": -1.0}, "tolerance: expected a number of at least 0, found -1.0"),
    ],
)
def test_bad_options(options: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        check_function(torch.tanh, None, points(3, 2), **options)


def test_a_wrong_gradient_is_not_told_of_once_more_by_its_derivative_or_at_other_points() -> None:
    report = check_function(function(torch.square, lambda g, x: x * g), torch.square, points(5, 3), seed=1)
    assert not {"double backward", "special values"} & {f.rule for f in report.findings if f.verdict is Verdict.FAILED}
    assert report.details().count("the gradient itself is wrong") == 2


class TestNotFinite:
    """NaN and infinity hide nothing that is wrong beside them."""

    def test_beside_an_infinite_number_another_one_counts(self) -> None:
        def backward(g: Tensor, x: Tensor) -> Tensor:
            return g / (2 * x.sqrt()) * (1.0 if g.is_contiguous() else 1.5)

        x = [torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], requires_grad=True)]
        report = check_function(function(torch.sqrt, backward), None, x, seed=1)
        assert "upstream layout" in {f.rule for f in report.failures}

    def test_nan_in_one_precision_alone_is_a_difference(self) -> None:
        def overflows(x: Tensor) -> Tensor:
            return 0 * (x + 2) * 1e30 * 1e30 + x if x.dtype == torch.float64 else x / 0 * 0

        ctx = Context(Subject(overflows, "function", points(3), (0,)), None, ["x"], seed=0)
        assert ctx.outputs[0].isnan().all()
        assert not same_in_float64(ctx)

    def test_the_same_infinity_is_none(self) -> None:
        a = torch.tensor([torch.inf, -torch.inf, torch.nan, 1.0])
        assert nearly_same(a, a.clone(), 1e-7)
        assert not nearly_same(a, torch.tensor([torch.inf, -torch.inf, torch.nan, 2.0]), 1e-7)
        assert not nearly_same(a, a.nan_to_num(nan=0.0), 1e-7)
        assert not nearly_same(a, a.neg(), 1e-7)
        eighth = torch.tensor([0.125, 1.0]).to(torch.float8_e4m3fn)
        assert nearly_same(eighth, eighth.clone(), 1e-7)
        assert not nearly_same(eighth, torch.tensor([0.25, 1.0]).to(torch.float8_e4m3fn), 1e-7)

    def test_a_second_derivative_that_is_nowhere_finite_is_not_right(self) -> None:
        x = [torch.tensor([0.0, 1.0, -2.0], requires_grad=True)]
        report = check_function(
            function(lambda x: x.abs() ** 1.5, lambda g, x: 1.5 * g * (x.detach().abs() ** 0.5) * x.detach().sign()),
            lambda x: x.abs() ** 1.5,
            x,
            seed=1,
        )
        (found,) = (f for f in report.findings if f.rule == "double backward")
        assert found.verdict is Verdict.NOT_APPLICABLE


def test_what_forward_mode_cannot_tell_of_one_input_hides_no_failure_of_another() -> None:
    product = function(torch.mul, lambda g, a, b: (1.1 * g * b, g * a))
    without_forward_mode = function(lambda x: 1 * x, lambda g, x: g)
    report = check_function(product, lambda a, b: a * without_forward_mode(b), [*points(4), *points(4)], seed=1)
    found = {f.subject: f.verdict for f in report.findings if f.rule == "JVP-VJP product"}
    assert found == {"input 0": Verdict.FAILED, "input 1": Verdict.NOT_APPLICABLE}


def test_where_no_loop_runs_a_batched_rule_has_not_passed() -> None:
    (x,) = points(4)
    given = x.detach().clone()

    def only_here(y: Tensor) -> Tensor:
        if not y.is_meta and y.shape == given.shape and not torch.equal(y.to(given.dtype), given):
            raise ValueError("other inputs")
        return y.sin()

    report = check_function(
        function(only_here, lambda g, x: g * x.cos(), generate_vmap_rule=True), torch.sin, [x], seed=1
    )
    (found,) = (f for f in report.findings if f.rule == "vmap")
    assert (found.verdict, found.text) == (Verdict.NOT_APPLICABLE, "it raises at other inputs")


def of_whole_numbers(a: Tensor, b: Tensor) -> Tensor:
    """``a · b``, of which no differences in ``a`` can be taken."""
    if not bool((a == a.round()).all()):
        raise ValueError("whole numbers only")
    return a * b


thrice_in_a = function(of_whole_numbers, lambda g, a, b: (3 * g * b, g * a))


def test_an_input_is_not_judged_by_what_judged_another_of_its_name() -> None:
    a, b = torch.tensor([1.0, 2.0, -3.0], requires_grad=True), torch.tensor([0.3, -1.2, 0.8], requires_grad=True)
    report = check_function(thrice_in_a, None, [a, b], names=["x", "x"], seed=0)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.unjudged == ("x (0)",)


def test_an_argument_of_the_name_of_a_parameter_is_judged_by_itself() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([0.3, -1.2, 0.8]))

        def forward(self, scale: Tensor) -> Any:
            return thrice_in_a(scale, self.scale)

    report = check_module(Scaled(), {"scale": torch.tensor([1.0, 2.0, -3.0], requires_grad=True)}, seed=0)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.unjudged == ("scale (0)",)
