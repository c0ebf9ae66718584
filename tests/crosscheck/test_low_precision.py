"""Under autocast: Functions that follow it in any of the usual ways pass, and the same with a fault there do not."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd import Function

from lean_mnist.crosscheck.function_check import RULES, check_function
from tests.support.function_corpus import RIGHT

ONLY = [rule for rule in RULES if rule != "autocast"]


def linear_backward(x: Any, w: Any, g: Any) -> Any:
    return g @ w, g.T @ x, g.sum(0)


def linear(**options: Any) -> Any:
    """A linear layer that follows autocast by PyTorch's own decorators."""

    class Linear(Function):
        @staticmethod
        @custom_fwd(device_type="cpu", **options)  # type: ignore[untyped-decorator]
        def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Any:
            ctx.save_for_backward(x, w)
            return F.linear(x, w, b)

        @staticmethod
        @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
        def backward(ctx: Any, g: Tensor) -> Any:
            x, w = ctx.saved_tensors
            return linear_backward(x, w, g)

    return Linear


class CastsByItself(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Any:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        x, w, b = x.to(dtype), w.to(dtype), b.to(dtype)
        ctx.save_for_backward(x, w)
        return F.linear(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return tuple(v.float() for v in linear_backward(x, w, g.to(x.dtype)))


class SumByProduct(Function):
    """Nothing in its forward that autocast lowers, and a matrix product in its backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        return x.cumsum(0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return torch.ones(len(g), len(g)).to(g).triu() @ g


class ReLUOfProduct(Function):
    """Rounding to bfloat16 puts some pre-activations on the other side of the kink."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Any:
        h = F.linear(x, w, b).clamp(min=0)
        ctx.save_for_backward(x, w, h)
        return h

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w, h = ctx.saved_tensors
        return linear_backward(x.to(g.dtype), w.to(g.dtype), g * (h > 0))


class Cancels(Function):
    """A centred product, of which nearly nothing is left: in bfloat16, often nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Any:
        y = F.linear(1 + 1e-3 * x, w, b)
        ctx.save_for_backward(x, w)
        return y - y.mean(1, keepdim=True)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = (v.to(g.dtype) for v in ctx.saved_tensors)
        g = g - g.mean(1, keepdim=True)
        return 1e-3 * (g @ w), g.T @ (1 + 1e-3 * x), g.sum(0)


LAYER = ((7, 3), (6, 3), (6,))
FOLLOWS = {
    "custom_fwd": (linear(), LAYER),
    "custom_fwd, inputs cast": (linear(cast_inputs=torch.bfloat16), LAYER),
    "custom_fwd, kept in float32": (linear(cast_inputs=torch.float32), LAYER),
    "casts by itself": (CastsByItself, LAYER),
    "a sum by a product": (SumByProduct, ((9, 4),)),
    "a ReLU of a product": (ReLUOfProduct, LAYER),
    "a large one": (ReLUOfProduct, ((50, 40), (60, 40), (60,))),
    "one unit": (CastsByItself, ((2, 3), (1, 3), (1,))),
    "cancels": (Cancels, LAYER),
}


def inputs(shapes: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("name", FOLLOWS)
def test_functions_that_follow_autocast_pass(name: str) -> None:
    function, shapes = FOLLOWS[name]
    for seed in range(4):
        report = check_function(function.apply, None, inputs(shapes, seed), seed=seed, skip=ONLY)
        assert not report.failures, f"seed {seed}: {report}"
        exact = name == "custom_fwd, kept in float32"
        assert ("the same as without it" if exact else "within bfloat16's precision") in report.details()


class ScaledUnderAutocast(Function):
    """The identity, but for a factor of the gradient where the forward is under autocast."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Any:
        ctx.factor = factor if torch.is_autocast_enabled("cpu") else 1.0
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return ctx.factor * g, None


@pytest.mark.parametrize("factor", [-1.0, 1.2])
@pytest.mark.parametrize("name", FOLLOWS)
def test_a_fault_under_autocast_is_found(name: str, factor: float) -> None:
    function, shapes = FOLLOWS[name]
    wrong = lambda *given: function.apply(*(ScaledUnderAutocast.apply(x, factor) for x in given))  # noqa: E731
    report = check_function(wrong, None, inputs(shapes, 0), seed=0, skip=ONLY)
    assert not report.ok


@pytest.mark.parametrize("name", ["layer norm", "swiglu", "softmax", "embedding", "mean square", "absolute value"])
def test_where_autocast_lowers_nothing_float32_is_owed(name: str) -> None:
    right = RIGHT[name]
    report = check_function(right.function, None, right.inputs(0), seed=0, skip=ONLY)
    assert "the same as without it" in report.details()
    needing = len(right.shapes)
    wrong = (  # noqa: E731
        lambda *given: right.function(
            *(ScaledUnderAutocast.apply(x, 1.0001) for x in given[:needing]), *given[needing:]
        )
    )
    report = check_function(wrong, None, right.inputs(0), seed=0, skip=ONLY)
    assert not report.ok
    assert "though nothing was computed in a lower precision" in report.details()
