"""Questions that make no sense are one line; a Function that breaks its contract gets a verdict. Nothing crashes."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function

from lean_mnist.crosscheck.function_check import check_function, check_module
from lean_mnist.errors import ArgumentError
from tests.support.planted_faults import linear, made


def leaf(*shape: Any, dtype: torch.dtype = torch.float32) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype).requires_grad_()


def asked(function: Any, reference: Any = torch.sin, inputs: Any = None, **options: Any) -> Any:
    with pytest.raises(ArgumentError) as raised:
        check_function(function, reference, [leaf(4, 3)] if inputs is None else inputs, **options)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_a_function_or_reference_that_raises() -> None:
    def raises(x: Any) -> None:
        raise IndexError("no such\nrow")

    assert asked(raises) == "function: its forward raised IndexError: no such row"
    assert asked(torch.sin, raises) == (
        "reference: expected a function that takes float64; its forward raised IndexError: no such row"
    )


def test_a_reference_with_other_outputs() -> None:
    assert "expected outputs of the reference's shapes [(4, 3), (4, 3)], found [(4, 3)]" in asked(
        torch.sin, lambda x: (x.sin(), x.cos())
    )


@pytest.mark.parametrize("result", [None, 3.0, {"y": 1}, "y"])
def test_results_that_are_no_tensors(result: Any) -> None:
    assert "function: expected a tensor or tensors in containers as its result, found" in asked(lambda x: result)
    assert "reference: expected a tensor or tensors in containers" in asked(torch.sin, lambda x: result)


def test_what_is_no_function() -> None:
    class Square(Function):
        pass

    assert asked(Square) == "function: expected a function, found the class Square; give Square.apply"
    assert asked(3) == "function: expected a function, found int"
    assert asked(torch.sin, 3) == "reference: expected a function, found int"
    assert asked(torch.sin, inputs=leaf(3)) == "inputs: expected a list of arguments, found Tensor"


def test_a_reference_that_rounds_or_has_nothing_to_differentiate() -> None:
    assert "found outputs in torch.float16 from inputs in float64" in asked(torch.sin, lambda x: x.sin().half())
    assert asked(torch.sin, lambda x: x.argmax(1)) == "reference: expected a floating output, found none"


def test_options_of_other_kinds() -> None:
    for seed in ("1", 1.5, 2**63, -(2**63) - 1):
        assert asked(torch.sin, seed=seed).startswith("seed: expected a whole number from -2^63 to below 2^63, found")
    assert asked(torch.sin, names="x") == "names: expected a list of names, found str"
    assert asked(torch.sin, upstream=3) == "upstream: expected lists, each of a tensor or None for every output"
    with pytest.raises(ArgumentError, match=r"^reference: expected a function, found int$"):
        check_module(torch.nn.Linear(2, 2), [leaf(2)], 3)  # type: ignore[arg-type]


def test_tensors_without_numbers() -> None:
    meta = torch.empty(3, device="meta", requires_grad=True)
    assert "found input 0, which is on meta" in asked(torch.sin, inputs=[meta])


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (lambda n: 1 / 0, "for 0 it raised ZeroDivisionError: division by zero"),
        (lambda n: [], "expected a list of 1 inputs for 0 examples, found 0"),
        (lambda n: torch.ones(n, 3), "expected a list of 1 inputs for 0 examples, found Tensor"),
        ("yes", "expected True, indices of inputs or a function, found 'yes'"),
        ((5,), "expected inputs with at least one example, found input 5"),
    ],
)
def test_batches_that_make_no_sense(vary: Any, message: str) -> None:
    assert asked(vary_batch=vary, function=torch.sin) == f"vary_batch: {message}"


def test_sparse_nested_and_float8_inputs_and_outputs() -> None:
    wanted = "inputs: expected dense tensors where a gradient is checked"
    sparse = torch.eye(3).to_sparse().requires_grad_()
    assert asked(torch.sin, inputs=[sparse]) == f"{wanted}, found input 0, torch.sparse_coo"
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged, requires_grad=True)
    assert asked(torch.sin, inputs=[nested]) == f"{wanted}, found input 0, nested"
    float8 = torch.ones(3).to(torch.float8_e4m3fn).requires_grad_()
    assert "at least 16 bits a number where a gradient is checked, found input 0 in torch.float8_e4m3fn" in asked(
        torch.sin, inputs=[float8]
    )
    assert "dense outputs of at least 16 bits a number, found torch.sparse_coo" in asked(lambda x: x.to_sparse())


def test_inputs_and_references_that_are_not_finite() -> None:
    x = leaf(4, 3)
    with torch.no_grad():
        x[1, 1] = torch.nan
    assert "expected finite numbers where a gradient is checked, found others in input 0" in asked(
        torch.sin, inputs=[x]
    )
    zeros = torch.zeros(4, 3, requires_grad=True)
    message = asked(lambda x: x.abs().sqrt() * 0, lambda x: x.abs().sqrt(), inputs=[zeros])
    assert "reference: expected a finite gradient of input 0" in message


def test_a_forward_that_cannot_be_repeated() -> None:
    generator = torch.Generator().manual_seed(0)
    message = asked(lambda x: x * torch.rand(x.shape, generator=generator), None)
    assert "stochastic" in message
    assert "torch.Generator" in message


def test_a_forward_that_runs_once_or_returns_ever_more() -> None:
    calls = list[Tensor]()

    def once(x: Tensor) -> Tensor:
        calls.append(x)
        if len(calls) > 1:
            raise RuntimeError("it is used up")
        return x.sin()

    x = torch.randn(3, requires_grad=True)
    with pytest.raises(ArgumentError, match="function: called again, its forward raised RuntimeError: it is used up"):
        check_function(once, None, [x])

    def more(x: Tensor) -> list[Tensor]:
        calls.append(x)
        return [x.sin()] * len(calls)

    with pytest.raises(ArgumentError, match="function: two calls with the same inputs give different outputs"):
        check_function(more, None, [x])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": ["gradchek"]}, "skip: expected names of RULES, found 'gradchek' (did you mean 'gradcheck'?)"),
        ({"skip": "autocast"}, "skip: expected a list of names of RULES, found the string 'autocast'"),
        ({"probes": 0}, "probes: expected a whole number of at least 1, found 0"),
        ({"probes": 1.5}, "probes: expected a whole number of at least 1, found 1.5"),
        ({"replays": 0}, "replays: expected a whole number of at least 1, found 0"),
        ({"names": ["x", "y"]}, "names: expected 1, one an input, found 2"),
    ],
)
def test_options(options: Any, message: str) -> None:
    assert asked(torch.sin, **options) == message


def verdict(function: Any, reference: Any, inputs: Any, names: Any) -> Any:
    report = check_function(function, reference, inputs, names=names, seed=1)
    assert not report.ok
    return str(report)


def test_a_wrong_number_of_gradients() -> None:
    text = verdict(linear(lambda v, x, w, g: v[:2]), None, [leaf(4, 3), leaf(2, 3), leaf(2)], ["x", "weight", "bias"])
    assert "ERROR  backward: backward raised RuntimeError" in text
    assert "returned an incorrect number of gradients (expected 3, got 2)" in text


def test_a_gradient_of_a_wrong_shape_names_the_input() -> None:
    function = linear(lambda v, x, w, g: [v[0], v[1].T, v[2]])
    text = verdict(function, None, [leaf(4, 3), leaf(2, 3), leaf(2)], ["x", "weight", "bias"])
    assert "invalid gradient at index 1" in text
    assert "(index 1 is weight)" in text


def test_a_backward_that_raises() -> None:
    def backward(ctx: Any, saved: Any, g: Any) -> None:
        raise KeyError("mask")

    text = verdict(made(torch.sin, backward), torch.sin, [leaf(4, 3)], ["x"])
    assert "ERROR  backward: backward raised KeyError: 'mask'" in text


def test_a_backward_that_returns_no_tensor() -> None:
    text = verdict(made(torch.sin, lambda ctx, saved, g: 3.0), torch.sin, [leaf(4, 3)], ["x"])
    assert "ERROR  backward: backward raised" in text


def test_nan_and_infinity_in_a_gradient() -> None:
    for value in (torch.nan, torch.inf):
        text = verdict(made(torch.sin, lambda ctx, s, g, v=value: g * v), torch.sin, [leaf(4, 3)], ["x"])
        assert "ERROR  gradient of x" in text
        assert "likely NaN: 12 of 12 values are" in text
        verdict(made(torch.sin, lambda ctx, s, g, v=value: g * v), None, [leaf(4, 3)], ["x"])


def test_mixed_precisions() -> None:
    class Mixed(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor) -> Any:
            ctx.save_for_backward(x, w)
            return (x * w.to(x.dtype)).to(x.dtype)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            x, w = ctx.saved_tensors
            return g * w.to(g.dtype), (g * x).to(w.dtype)

    inputs = [leaf(4, 3), leaf(4, 3, dtype=torch.float64)]
    report = check_function(Mixed.apply, lambda x, w: x * w.to(x.dtype), inputs, seed=1)
    assert report.ok, report


def test_infinite_outputs_that_the_reference_has_too() -> None:
    mask = torch.tensor([[0.0, -torch.inf, 0.0]])

    class MaskedLogSoftmax(Function):
        @staticmethod
        def forward(ctx: Any, s: Tensor) -> Any:
            y = torch.log_softmax(s + mask.to(s), 1)
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            g = torch.where(mask == 0, g, 0)
            return g - ctx.saved_tensors[0].exp() * g.sum(1, keepdim=True)

    def reference(s: Any) -> Any:
        return torch.log_softmax(s + mask.to(s), 1)

    report = check_function(MaskedLogSoftmax.apply, reference, [leaf(4, 3)], seed=1)
    assert report.outputs[0].passed
    assert isinstance(str(report), str)
