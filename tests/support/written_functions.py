"""Functions in forms other than ``Function.apply`` of a few real tensors, right and wrong."""

from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint


class ComplexProduct(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Any:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, b = ctx.saved_tensors
        return g * b.conj(), g * a.conj()


class WithoutConjugate(ComplexProduct):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, b = ctx.saved_tensors
        return g * b, g * a.conj()


class SetupContext(Function):
    """``x · tanh x``, with ``setup_context`` and rules of its own for ``vmap`` and forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Any:
        return x * x.tanh()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return g * (x.tanh() + x * (1 - x.tanh() ** 2))


class WrongSetupContext(SetupContext):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return g * (x.tanh() + x * (1 - x.tanh()))


class Tripled(Function):
    """``x³``, with a factor of its gradient to choose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Any) -> Any:
        ctx.save_for_backward(x)
        ctx.factor = factor
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return g * ctx.factor * x**2, None


def reentrant(factor: float) -> Any:
    """A cube inside of a reentrant checkpoint, which ``torch.autograd.grad`` refuses."""
    return lambda x: checkpoint(lambda u: Tripled.apply(u, factor).tanh(), x, use_reentrant=True)


class AddedToMainGrad(Function):
    """``x Wᵀ`` that adds the gradient of ``W`` to ``W.main_grad``, as Megatron's fused accumulation does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, factor: Any) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.factor = factor
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        if ctx.needs_input_grad[1]:
            weight.main_grad += ctx.factor * g.T @ x
        return g @ weight, None, None
