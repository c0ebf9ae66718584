"""``check_function``: right Functions pass, planted bugs are found and named, and nothing outside is touched."""

import math
import pkgutil
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd import Function

from lean_mnist.audit.reference import NetworkLoss
from lean_mnist.chainrule.losses import softmax_cross_entropy
from lean_mnist.crosscheck import FunctionReport, GradientMismatch, check_function, rules
from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.crosscheck.context import LARGE, Context
from lean_mnist.crosscheck.function_check import RULES
from lean_mnist.crosscheck.report import GRADCHECK, GRADIENT, OUTPUT, Finding, Verdict
from lean_mnist.crosscheck.rules.gradcheck import GRADCHECK_NUMBERS
from lean_mnist.errors import ArgumentError
from lean_mnist.nn import functional
from tests.support.activations import TORCH_ACTIVATIONS
from tests.support.crosscheck_cases import plain_loss

SEED = 5
NAMES = ("x", "weight", "bias")


def leaves(*shapes: Any, seed: int = SEED, dtype: torch.dtype = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


LABELS = torch.tensor([3, 0, 1, 1, 2])


def nested(flat: Any) -> Any:
    return list(zip(flat[::2], flat[1::2], strict=True))


def faces() -> Iterator[Any]:
    """Every function of ``lean_mnist.nn.functional`` beside plain PyTorch, and the shapes of what they take."""
    network = ((5, 6), (7, 6), (7,), (4, 7), (4,))
    yield "dense", functional.dense, F.linear, ((5, 6), (4, 6), (4,))
    yield "dense without bias", functional.dense, F.linear, ((5, 6), (4, 6))
    for name, torchs in TORCH_ACTIVATIONS.items():
        yield f"activate {name}", partial(functional.activate, activation=name), torchs, ((5, 6),)
    for name in ("relu", "leaky_relu", "sigmoid", "tanh", "gelu"):
        yield name, getattr(functional, name), TORCH_ACTIVATIONS[name.replace("_", "-")], ((2, 3, 4),)
    yield "softmax", functional.softmax, partial(torch.softmax, dim=1), ((5, 4),)
    for reduction in functional.REDUCTIONS:
        options = {"label_smoothing": 0.1, "reduction": reduction}
        yield (
            f"cross_entropy {reduction}",
            lambda s, options=options: functional.cross_entropy(s, LABELS, **options),
            lambda s, options=options: F.cross_entropy(s, LABELS, **options),
            ((5, 4),),
        )
    for name in TORCH_ACTIVATIONS:

        def plain(x: Any, *flat: Any, name: str = name) -> Any:
            (w1, b1), (w2, b2) = nested(flat)
            return F.linear(TORCH_ACTIVATIONS[name](F.linear(x, w1, b1)), w2, b2)

        yield f"mlp {name}", lambda x, *flat, name=name: functional.mlp(x, nested(flat), name), plain, network
    yield (
        "mlp_loss",
        lambda x, *flat: functional.mlp_loss(x, LABELS, nested(flat), "gelu", softmax_cross_entropy(0.1, 0.2)),
        lambda x, *flat: plain_loss(NetworkLoss("gelu", 0.1, 0.2), nested(flat), x, LABELS),
        network,
    )


FACES = {name: rest for name, *rest in faces()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FACES)
def test_our_own_functions_pass(name: str, dtype: torch.dtype) -> None:
    function, reference, shapes = FACES[name]
    report = check_function(function, reference, leaves(*shapes, dtype=dtype), seed=SEED)
    assert report.ok, report
    assert report.gradcheck == "passed"
    assert len(report.gradients) == len(shapes)


# A user's fused Function, with bugs planted in its backward.


def right(x: Any, weight: Any, h: Any, g: Any) -> Any:
    dz = g * (h > 0)
    return dz @ weight, dz.T @ x, dz.sum(0)


def fused(backward_of: Any, **options: Any) -> Any:
    """``relu(x Wᵀ + b)`` with ``backward_of(x, weight, h, upstream)`` as its backward."""

    class FusedLinearReLU(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Any:
            h = torch.addmm(bias, x, weight.T).clamp(min=0)
            ctx.save_for_backward(x, weight, h)
            return h

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            return tuple(backward_of(*ctx.saved_tensors, g))

    return FusedLinearReLU.apply


def plain_linear_relu(x: Any, weight: Any, bias: Any) -> Any:
    return F.relu(F.linear(x, weight, bias))


def only(index: Any, change: Any) -> Any:
    """A bug in one of the three gradients."""

    def backward_of(x: Any, weight: Any, h: Any, g: Any) -> Any:
        gradients = list(right(x, weight, h, g))
        gradients[index] = change(gradients[index], x, weight, h, g)
        return gradients

    return backward_of


def masked(mask_of: Any) -> Any:
    def backward_of(x: Any, weight: Any, h: Any, g: Any) -> Any:
        return right(x, weight, mask_of(x, weight, h, g), g)

    return backward_of


def upstream(change: Any) -> Any:
    return lambda x, weight, h, g: right(x, weight, h, change(g))


def zero_last_row(v: Any, *_: Any) -> Any:
    return torch.cat([v[:-1], torch.zeros_like(v[-1:])])


def special_branch_for_ones(x: Any, weight: Any, h: Any, g: Any) -> Any:
    """Right wherever tests call ``.sum().backward()``."""
    return right(x, weight, h, g if bool((g == 1).all()) else g.abs())


ALL = {"x", "weight", "bias"}
BUGS = {  # the backward, and the inputs whose gradients are wrong
    "sign": (only(0, lambda v, *_: -v), {"x"}),
    "factor 2": (only(1, lambda v, *_: 2 * v), {"weight"}),
    "scale 1.001": (only(0, lambda v, *_: 1.001 * v), {"x"}),
    "scale 1.0001": (only(1, lambda v, *_: 1.0001 * v), {"weight"}),
    "reshape for transpose": (only(1, lambda v, x, w, h, g: (x.T @ (g * (h > 0))).reshape(v.shape)), {"weight"}),
    "rows swapped": (only(1, lambda v, *_: v.roll(1, 0)), {"weight"}),
    "mask missing": (masked(lambda x, w, h, g: torch.ones_like(h)), ALL),
    "mask of the upstream gradient": (masked(lambda x, w, h, g: g), ALL),
    "mask shifted": (masked(lambda x, w, h, g: h - 0.5), ALL),
    "mask >=": (masked(lambda x, w, h, g: h + 1e-30), ALL),
    "bias gradient zero": (only(2, lambda v, *_: torch.zeros_like(v)), {"bias"}),
    "bias gradient a mean": (only(2, lambda v, x, *_: v / len(x)), {"bias"}),
    "bias gradient the first row": (only(2, lambda v, x, w, h, g: (g * (h > 0))[0]), {"bias"}),
    "bias gradient summed to one number": (only(2, lambda v, *_: v.mean().expand(v.shape)), {"bias"}),
    "upstream gradient ignored": (upstream(torch.ones_like), ALL),
    "only the sign of the upstream gradient": (upstream(torch.sign), ALL),
    "upstream gradient squared": (upstream(torch.square), ALL),
    "upstream gradient taken to be constant": (upstream(lambda g: g.flatten()[0].expand(g.shape)), ALL),
    "upstream gradient without its small parts": (upstream(lambda g: g * (g.abs() > 0.5)), ALL),
    "special branch for ones": (special_branch_for_ones, ALL),
    "wrong from the fifth unit on": (upstream(lambda g: torch.cat([g[:, :4], 0 * g[:, 4:]], 1)), ALL),
    "last example dropped": (only(1, lambda v, x, w, h, g: (g * (h > 0))[:-1].T @ x[:-1]), {"weight"}),
    "last row zero": (only(1, zero_last_row), {"weight"}),
    "all rows written to row 0": (only(1, lambda v, *_: torch.cat([v.sum(0, True), 0 * v[1:]])), {"weight"}),
    "not a number": (only(0, lambda v, *_: v * math.nan), {"x"}),
    "infinite": (only(2, lambda v, *_: v + math.inf), {"bias"}),
    "bfloat16 accumulation": (
        only(1, lambda v, x, w, h, g: ((g * (h > 0)).bfloat16().T @ x.bfloat16()).to(v.dtype)),
        {"weight"},
    ),
    "None for the weight": (only(1, lambda *_: None), {"weight"}),
    "None for everything": (lambda *_: (None, None, None), ALL),
    "noise": (only(0, lambda v, *_: v + 1e-3 * torch.randn_like(v)), {"x"}),
}

SHAPES = {"rectangular": ((7, 3), (6, 3), (6,)), "large": ((33, 50), (45, 50), (45,))}


def wrong_inputs(report: Any) -> Any:
    """The names of the inputs that a report says have a wrong gradient."""
    return {divergence.name.removeprefix("gradient of ") for divergence in report.gradients if not divergence.passed}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_right_function_passes(shape: Any, dtype: torch.dtype) -> None:
    for seed in range(2):
        inputs = leaves(*SHAPES[shape], seed=seed, dtype=dtype)
        report = check_function(fused(right), plain_linear_relu, inputs, names=NAMES, seed=seed)
        assert report.ok, f"inputs of seed {seed}: {report}"
        report.raise_if_failed()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_found_and_the_input_named(bug: str, shape: Any) -> None:
    backward_of, wrong = BUGS[bug]
    skip = [rule for rule in RULES if rule != "gradient"] if shape == "large" else []  # the others ask at one shape
    inputs = leaves(*SHAPES[shape])
    report = check_function(fused(backward_of), plain_linear_relu, inputs, names=NAMES, seed=SEED, skip=skip)
    assert not report.ok
    assert wrong_inputs(report) == wrong, report
    assert all(divergence.passed for divergence in report.outputs)
    with pytest.raises(GradientMismatch, match=f"ERROR  gradient of {min(wrong)}"):
        report.raise_if_failed()


@pytest.mark.parametrize("bug", ["only the sign of the upstream gradient", "special branch for ones"])
def test_an_upstream_gradient_of_ones_would_not_show_it(bug: str) -> None:
    """The control: these two are why upstream gradients are random."""
    function, inputs = fused(BUGS[bug][0]), leaves(*SHAPES["rectangular"])
    found = torch.autograd.grad(function(*inputs).sum(), inputs)
    expected = torch.autograd.grad(plain_linear_relu(*inputs).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_wrong_forward_is_named() -> None:
    wrong = lambda x, weight, bias: fused(right)(x, weight, bias) + 1e-3  # noqa: E731
    report = check_function(wrong, plain_linear_relu, leaves(*SHAPES["rectangular"]), seed=SEED)
    assert not report.ok
    assert [divergence.name for divergence in report.outputs if not divergence.passed] == ["output 0"]
    assert wrong_inputs(report) == set()


def test_a_function_that_returns_nan() -> None:
    report = check_function(
        lambda x: fused(right)(x, torch.ones(6, 3).to(x), torch.zeros(6).to(x)) * math.nan,
        lambda x: plain_linear_relu(x, torch.ones(6, 3).to(x), torch.zeros(6).to(x)),
        leaves((7, 3)),
        seed=SEED,
    )
    assert not report.ok
    assert not report.outputs[0].passed
    assert not report.gradients[0].passed
    assert "nan" in str(report)


def test_the_report_in_words() -> None:
    inputs = leaves(*SHAPES["rectangular"])
    report = check_function(fused(BUGS["factor 2"][0]), plain_linear_relu, inputs, names=NAMES, seed=11)
    first, *lines = report.details().splitlines()
    assert first == "FAILED (seed 11)"
    # What failed comes first, and only what is about the weight has.
    verdicts = [line.split()[0] for line in lines if not line.lstrip().startswith("not applicable")]
    failed = [line for line in lines if line.lstrip().startswith("ERROR")]
    assert failed == lines[: len(failed)]
    assert "passed" in verdicts
    index = r"\[\d, \d\]"
    assert re.search(
        rf"gradient of weight{index}: hand-written \S+, reference \S+ \(divergence 1\.00e\+00, ", failed[0]
    )
    assert "constant factor: 2 times" in failed[0]
    assert not any(re.search(r"gradient of (x|bias)", line) for line in failed)
    assert any("gradcheck: Jacobian mismatch for output 0 with respect to input 1" in line for line in failed)
    weight = report.gradients[1]
    assert weight.ours == pytest.approx(2 * weight.reference, rel=1e-5)
    passed = check_function(fused(right), plain_linear_relu, inputs, seed=11)
    assert str(passed).startswith("passed (seed 11)\n")
    assert "gradient of input 2" in passed.details()


@pytest.mark.parametrize(
    ("gradcheck", "words"),
    [
        (Finding(Verdict.PASSED, "rtol 1e-05", rule=GRADCHECK), "passed"),
        (Finding(Verdict.NOT_APPLICABLE, "too large", rule=GRADCHECK), "not run: too large"),
        (Finding(Verdict.FAILED, "Jacobian mismatch", rule=GRADCHECK), "failed: Jacobian mismatch"),
    ],
)
@pytest.mark.parametrize("wrong", [None, OUTPUT, GRADIENT])
def test_ok(gradcheck: Finding, words: str, wrong: str | None) -> None:
    fine, off = Divergence("fine", 0.0, 0.0, (), 0.0, 0.0), Divergence("off", 1.0, 0.1, (), 1.0, 0.0)
    compared = [(rule, off if rule == wrong else fine) for rule in (OUTPUT, GRADIENT)]
    compared.append((GRADIENT, fine))
    findings = [
        Finding(Verdict.PASSED if d.passed else Verdict.FAILED, str(d), rule=rule, divergence=d) for rule, d in compared
    ]
    report = FunctionReport((*findings, gradcheck), 0)
    assert report.ok is (wrong is None and gradcheck.verdict is not Verdict.FAILED)
    assert (report.gradcheck, len(report.outputs), len(report.gradients)) == (words, 1, 2)
    if report.ok:
        report.raise_if_failed()
    else:
        with pytest.raises(GradientMismatch) as raised:
            report.raise_if_failed()
        assert str(raised.value) == str(report)


def test_every_module_of_rules_is_asked_in_the_order_of_its_numbers() -> None:
    expected = """precision, gradient, output, JVP-VJP product, finite differences, Taylor test, uninitialised memory,
        upstream gradient, upstream layout, undefined upstream, input layout, mutation, random numbers, changed
        input, replay, needs_input_grad, same tensor twice, double backward, jvp, vmap, autocast, gradcheck,
        opcheck, special values, batch size, size"""
    assert list(RULES) == [" ".join(name.split()) for name in expected.split(",")]
    modules = {module.name for module in pkgutil.iter_modules(rules.__path__)}
    assert {registered.ask.__module__.rpartition(".")[2] for registered in rules.RULES} == modules


# Questions that make no sense.


@pytest.mark.parametrize(
    "inputs",
    [[], [1.0, "a"], [torch.ones(7, 3)], [torch.arange(3), None]],
    ids=["none", "no tensors", "no requires_grad", "integers"],
)
def test_some_input_must_require_a_gradient(inputs: Any) -> None:
    with pytest.raises(ArgumentError, match=r"inputs: expected at least one floating tensor with requires_grad"):
        check_function(lambda *_: torch.ones(()), lambda *_: torch.ones(()), inputs, seed=SEED)


@pytest.mark.parametrize("names", [(), ("x",), ("x", "weight", "bias", "more")])
def test_one_name_an_input(names: Any) -> None:
    with pytest.raises(ArgumentError, match=rf"names: expected 3, one an input, found {len(names)}"):
        check_function(fused(right), plain_linear_relu, leaves(*SHAPES["rectangular"]), names=names, seed=SEED)


@pytest.mark.parametrize(
    "other",
    [lambda x: x.sum(0), lambda x: x.T * 1, lambda x: (x * 1, x * 2), lambda x: (x * 2)[:, :, None]],
    ids=["summed", "transposed", "one output more", "one dimension more"],
)
def test_outputs_must_have_the_references_shapes(other: Any) -> None:
    with pytest.raises(
        ArgumentError, match=r"function: expected outputs of the reference's shapes \[\(7, 3\)\], found"
    ):
        check_function(other, lambda x: x * 2, leaves((7, 3)), seed=SEED)


def test_some_output_must_depend_on_an_input() -> None:
    with pytest.raises(ArgumentError, match="function: expected an output that depends on an input"):
        check_function(lambda x: (2 * x).detach(), lambda x: 2 * x, leaves((7, 3)), seed=SEED)
    with pytest.raises(ArgumentError, match="reference: expected an output that depends on an input"):
        check_function(lambda x: 2 * x, lambda x: (2 * x).detach(), leaves((7, 3)), seed=SEED)
    with pytest.raises(ArgumentError, match="function: expected an output that depends on an input"):
        check_function(lambda x: x.argmax(1), lambda x: 2 * x, leaves((7, 3)), seed=SEED)


# Unusual Functions.


class SinCos(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, times: Any) -> Any:
        ctx.save_for_backward(x)
        ctx.times = times
        return torch.sin(times * x), torch.cos(times * x)

    @staticmethod
    def backward(ctx: Any, d_sin: Any, d_cos: Any) -> Any:
        (x,) = ctx.saved_tensors
        return ctx.times * (d_sin * torch.cos(ctx.times * x) - d_cos * torch.sin(ctx.times * x)), None


class SinCosWithoutFanOut(SinCos):
    @staticmethod
    def backward(ctx: Any, d_sin: Any, d_cos: Any) -> Any:
        (x,) = ctx.saved_tensors
        return ctx.times * d_sin * torch.cos(ctx.times * x), None


def sin_cos(x: Any, times: Any) -> Any:
    return torch.sin(times * x), torch.cos(times * x)


def test_several_outputs_and_arguments_that_are_no_tensors() -> None:
    inputs = [*leaves((4, 3)), 3]
    report = check_function(SinCos.apply, sin_cos, inputs, names=["x", "times"], seed=SEED)
    assert report.ok, report
    assert [divergence.name for divergence in report.outputs] == ["output 0", "output 1"]
    assert [divergence.name for divergence in report.gradients] == ["gradient of x"]
    wrong = check_function(SinCosWithoutFanOut.apply, sin_cos, inputs, names=["x", "times"], seed=SEED)
    assert wrong_inputs(wrong) == {"x"}


def test_an_output_whose_gradient_is_cut_off_fails() -> None:
    report = check_function(lambda x: (2 * x, (3 * x).detach()), lambda x: (2 * x, 3 * x), leaves((4, 3)), seed=SEED)
    assert not report.ok
    assert wrong_inputs(report) == {"input 0"}


def test_an_input_that_is_not_used_has_a_gradient_of_zero() -> None:
    unused = lambda x, w: 2 * x  # noqa: E731
    assert check_function(unused, lambda x, w: 2 * x + 0 * w, leaves((4, 3), (4, 3)), seed=SEED).ok
    report = check_function(
        unused, lambda x, w: 2 * x + w * 1e-3 - 1e-3 * w.detach(), leaves((4, 3), (4, 3)), seed=SEED
    )
    assert wrong_inputs(report) == {"input 1"}


def test_integer_tensors_and_inputs_without_a_gradient_are_passed_on() -> None:
    (logits,) = leaves((5, 4))
    weights = torch.ones(5)
    report = check_function(
        lambda s, y, w: functional.cross_entropy(s, y, reduction="none") * w,
        lambda s, y, w: F.cross_entropy(s, y, reduction="none") * w,
        [logits, LABELS, weights],
        names=["logits", "labels", "weights"],
        seed=SEED,
    )
    assert report.ok, report
    assert [divergence.name for divergence in report.gradients] == ["gradient of logits"]
    assert report.gradcheck == "passed"


def test_outputs_that_are_lists_or_hold_integers() -> None:
    report = check_function(lambda x: [2 * x, x.argmax(1)], lambda x: [x + x, x.argmax(1)], leaves((4, 3)), seed=SEED)
    assert report.ok, report
    assert len(report.outputs) == 1


@pytest.mark.parametrize("shape", [(), (1, 1), (2, 3, 4)])
def test_shapes(shape: Any) -> None:
    assert check_function(functional.tanh, torch.tanh, leaves(shape), seed=SEED).ok


def test_inputs_that_are_not_leaves_or_not_contiguous() -> None:
    (x,) = leaves((6, 4))
    for view in (x * 2, x.T, x[::2], x[:1].expand(5, 4)):
        report = check_function(functional.gelu, F.gelu, [view], seed=SEED)
        assert report.ok, report
    assert x.grad is None


def test_within_no_grad() -> None:
    with torch.no_grad():
        assert check_function(fused(right), plain_linear_relu, leaves(*SHAPES["rectangular"]), seed=SEED).ok


@pytest.mark.parametrize("error", [RuntimeError, TypeError, ValueError, NotImplementedError, AssertionError])
def test_a_function_that_refuses_float64_is_still_compared(error: Any) -> None:
    def single_only(backward_of: Any) -> Any:
        def function(x: Any, weight: Any, bias: Any) -> Any:
            if x.dtype != torch.float32:
                raise error("this kernel takes\nfloat32")
            return fused(backward_of)(x, weight, bias)

        return function

    inputs = leaves(*SHAPES["rectangular"])
    report = check_function(single_only(right), plain_linear_relu, inputs, seed=SEED)
    assert report.ok
    assert report.gradcheck == "not run: the function does not take float64 (this kernel takes float32)"
    assert not check_function(single_only(BUGS["scale 1.001"][0]), plain_linear_relu, inputs, seed=SEED).ok


def test_a_function_that_computes_in_float32_whatever_it_is_given() -> None:
    """As many kernels do. Finite differences of it are noise, which says nothing about its gradient."""

    def kernel(backward_of: Any) -> Any:
        return lambda x, weight, bias: fused(backward_of)(x.float(), weight.float(), bias.float()).to(x.dtype)

    inputs = leaves(*SHAPES["rectangular"])
    assert not check_function(kernel(BUGS["scale 1.001"][0]), plain_linear_relu, inputs, seed=SEED).ok
    report = check_function(kernel(right), plain_linear_relu, inputs, seed=SEED)
    assert report.ok, report


def test_a_right_function_at_its_kink() -> None:
    """Zero inputs are common (black pixels, zero biases), and there finite differences see half of each side."""
    (z,) = leaves((4, 3))
    with torch.no_grad():
        z[1, 1] = 0.0
    report = check_function(functional.relu, F.relu, [z], seed=SEED)
    assert report.ok, report


def test_a_backward_that_raises_is_not_taken_for_one_that_refuses_float64() -> None:
    def raises_without_upstream(x: Any, weight: Any, h: Any, g: Any) -> Any:
        if not bool(g.any()):  # gradcheck tries an upstream gradient of zero
            raise RuntimeError("the upstream gradient must not be zero")
        return right(x, weight, h, g)

    inputs = leaves(*SHAPES["rectangular"])
    report = check_function(fused(raises_without_upstream), plain_linear_relu, inputs, seed=SEED)
    assert "does not take float64" not in report.gradcheck


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_upstream_gradient_that_is_overwritten_does_not_spoil_the_reference(dtype: torch.dtype) -> None:
    def overwrites(x: Any, weight: Any, h: Any, g: Any) -> Any:
        gradients = right(x, weight, h, g.clone())
        g.mul_(2)
        return gradients

    inputs = leaves(*SHAPES["rectangular"], dtype=dtype)
    report = check_function(fused(overwrites), plain_linear_relu, inputs, seed=SEED)
    assert wrong_inputs(report) == set()


# gradcheck's part.


@pytest.mark.parametrize(("numbers", "run"), [(GRADCHECK_NUMBERS, True), (GRADCHECK_NUMBERS + 1, False)])
def test_gradcheck_is_not_run_beyond_the_limit(numbers: Any, run: Any) -> None:
    calls = []

    def function(x: Any) -> Any:
        calls.append(1)
        return 2 * x.sum()

    report = check_function(function, lambda x: 2 * x.sum(), leaves((numbers,)), seed=SEED)
    assert report.ok, report
    assert (report.gradcheck == "passed") is run
    assert (len(calls) > numbers) is run
    if not run:
        assert report.gradcheck == "not run: 2,001 numbers, more than the 2,000 that finite differences suit"


def test_only_numbers_that_are_checked_count() -> None:
    (x,) = leaves((3,))
    big = torch.ones(5000)
    assert (
        check_function(lambda x, c: x * c.mean(), lambda x, c: x * c.mean(), [x, big], seed=SEED).gradcheck == "passed"
    )


def test_gradcheck_catches_what_a_wrong_reference_hides() -> None:
    wrong = fused(BUGS["factor 2"][0])
    report = check_function(wrong, wrong, leaves(*SHAPES["rectangular"]), seed=SEED)
    assert wrong_inputs(report) == set()
    assert report.gradcheck.startswith("failed")
    assert not report.ok


# What must not change, and what must.


def test_the_callers_tensors_are_left_alone() -> None:
    inputs = leaves(*SHAPES["rectangular"])
    for tensor in inputs:
        tensor.grad = torch.full_like(tensor, 7.0)
    before = [(t.detach().clone(), t.grad.clone()) for t in inputs]

    def scribbles(x: Any, weight: Any, bias: Any) -> Any:
        result = plain_linear_relu(x, weight, bias)
        with torch.no_grad():
            (x * 1).mul_(0)
        return result

    check_function(scribbles, plain_linear_relu, inputs, seed=SEED)
    for tensor, (value, gradient) in zip(inputs, before, strict=True):
        assert torch.equal(tensor, value)
        assert torch.equal(tensor.grad, gradient)
        assert tensor.requires_grad
        assert tensor.is_leaf


def test_a_function_that_writes_into_its_inputs_cannot_reach_the_callers() -> None:
    def writes(x: Any) -> Any:
        result = torch.tanh(x)
        x.data.zero_()
        return result

    (x,) = leaves((4, 3))
    before = x.detach().clone()
    check_function(writes, torch.tanh, [x], seed=SEED)
    assert torch.equal(x, before)


def test_the_same_seed_gives_the_same_report() -> None:
    inputs = leaves(*SHAPES["rectangular"])
    wrong = fused(BUGS["scale 1.001"][0])
    reports = [check_function(wrong, plain_linear_relu, inputs, seed=seed) for seed in (1, 1, 2)]
    assert reports[0] == reports[1]
    assert reports[0].gradients != reports[2].gradients
    assert [report.seed for report in reports] == [1, 1, 2]


def test_without_a_seed_a_fresh_one_that_the_report_tells() -> None:
    inputs = leaves(*SHAPES["rectangular"])
    options: dict[str, Any] = {"skip": [rule for rule in RULES if rule != "gradient"]}
    wrong = fused(BUGS["scale 1.001"][0])
    reports = [check_function(wrong, plain_linear_relu, inputs, **options) for _ in range(3)]
    assert len({report.seed for report in reports}) == 3
    assert check_function(wrong, plain_linear_relu, inputs, seed=reports[0].seed, **options) == reports[0]


@pytest.mark.parametrize("seed", [None, 3])
def test_the_callers_random_numbers_are_left_alone(seed: int) -> None:
    torch.manual_seed(SEED)
    before = torch.get_rng_state()
    check_function(fused(right), plain_linear_relu, leaves(*SHAPES["rectangular"]), seed=seed)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_default_device_than_the_inputs_have() -> None:
    """As after ``torch.set_default_device("cuda")``, with inputs on the CPU."""
    (x,), large = leaves((6, 4)), leaves((LARGE // 4 + 1, 5))
    with torch.device("meta"):
        for inputs in ([x], large):
            report = check_function(torch.tanh, torch.tanh, inputs, seed=SEED, vary_batch=[0])
            assert report.ok, report
        assert not check_function(lambda x: torch.tanh(x.detach()) + 0 * x, torch.tanh, [x], seed=SEED).ok


@pytest.mark.parametrize("length", [4, LARGE // 4])
def test_on_a_gpu_no_size_is_tried_that_nobody_named(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """There an index out of range, as of a shorter input, ends the process's use of the GPU."""
    lengths = set()

    def rows(x: Tensor) -> Tensor:
        lengths.add(len(x))
        return torch.tanh(x)

    for on_cpu in (True, False):
        lengths.clear()
        monkeypatch.setattr(Context, "takes_other_sizes", on_cpu)
        assert check_function(rows, None, leaves((length, 5)), seed=SEED).ok
        assert (lengths == {length}) != on_cpu
