"""Faults of other forms than a Function of tensors: operators, keyword arguments, modules, compiled code."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.crosscheck.executions import check_compiled
from lean_mnist.crosscheck.function_check import check_module
from lean_mnist.mutants.whole_function import Apply, FunctionGroup, by_formulas, function, gaussian

# fmt: off

OPERATORS = FunctionGroup("operators", (5, 6), (5, 6), reference=torch.mul)
ARGUMENTS = FunctionGroup("arguments and results", (5, 6), (4, 6), reference=nn.functional.linear)
MODULES = FunctionGroup("modules", (5, 6), check=check_module)
COMPILED = FunctionGroup("compiled code", (5, 6), check=check_compiled, backend="aot_eager")


def _operator(gradient: Callable[..., Any], name: str, value: Callable[..., Tensor] = torch.mul) -> Apply:
    """A custom operator of two tensors whose gradients are ``gradient(upstream, *inputs)``."""

    def operator(a: Tensor, b: Tensor) -> Tensor:
        return value(a, b)

    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    made = torch.library.custom_op(f"lean_mnist_mutants::{name}", operator, mutates_args=())
    made.register_fake(lambda a, b: torch.empty_like(a))
    made.register_autograd(lambda ctx, g: gradient(g, *ctx.saved_tensors), setup_context=setup_context)
    return made


OPERATORS.add("operator-second-input-twice", Kind.CONSTANT_FACTOR, "always",
    "the gradient registered for an operator's second input is twice the right one",
    lambda wrong: _operator(lambda g, a, b: (g * b, (1 + wrong) * g * a), f"second_input_twice_{wrong}"))
OPERATORS.add("operator-inputs-exchanged", Kind.SWAPPED_TENSORS, "always",
    "the gradients registered for an operator's two inputs are exchanged",
    lambda wrong: _operator(lambda g, a, b: (g * a, g * b) if wrong else (g * b, g * a), f"inputs_exchanged_{wrong}"))


@OPERATORS("operator-writes-undeclared", Kind.MUTATION, "always")
def _writes_undeclared(wrong: bool) -> Apply:
    """The operator rounds its second input in place, and ``mutates_args`` does not say so."""

    def value(a: Tensor, b: Tensor) -> Tensor:
        y = a * b
        if wrong:
            b.data.mul_(0.5)
        return y

    return _operator(lambda g, a, b: (g * b, g * a), f"writes_undeclared_{wrong}", value)


def _complex() -> list[Tensor]:
    return gaussian((5, 6), (5, 6), dtype=torch.complex64)


ARGUMENTS.by_formulas("conjugate-missing", Kind.WRONG_VALUES, "complex inputs",
    "the gradient of a complex product has the other factor, not its conjugate", torch.mul,
    lambda g, a, b: (g * b.conj(), g * a.conj()),
    lambda g, a, b: (g * b, g * a), inputs=_complex)
ARGUMENTS.by_formulas("imaginary-part-lost", (Kind.ZERO, Kind.MISSING_TERM), "complex inputs",
    "the gradient of a complex input is real", torch.mul,
    lambda g, a, b: (g * b.conj(), g * a.conj()),
    lambda g, a, b: ((g * b.conj()).real + 0j, g * a.conj()), inputs=_complex)


@ARGUMENTS("results-exchanged", Kind.SWAPPED_TENSORS, "nested results", (5, 6),
           reference=lambda x: {"sin": x.sin(), "rest": [x.cos()]})
def _results_exchanged(wrong: bool) -> Apply:
    """The upstream gradients of two results in a dict are exchanged."""

    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        return x.sin(), x.cos()

    def backward(ctx: Any, d_sin: Tensor, d_cos: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        d_sin, d_cos = (d_cos, d_sin) if wrong else (d_sin, d_cos)
        return d_sin * x.cos() - d_cos * x.sin()

    apply = function(forward, backward)

    def call(x: Tensor) -> dict[str, Any]:
        sine, cosine = apply(x)
        return {"sin": sine, "rest": [cosine]}

    return call


@ARGUMENTS("keyword-ignored", Kind.CONSTANT_FACTOR, "keyword arguments",
           inputs=lambda: {"x": gaussian((5, 6))[0], "scale": 3.0}, reference=lambda x, scale: scale * x.sin())
def _keyword_ignored(wrong: bool) -> Apply:
    """The backward leaves out a scale that was given as a keyword."""

    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.scale = 1.0 if wrong else scale
        return scale * x.sin()

    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return ctx.scale * g * ctx.saved_tensors[0].cos(), None

    apply = function(forward, backward)
    return lambda *, x, scale: apply(x, scale)


@ARGUMENTS("returned-and-accumulated", Kind.CONSTANT_FACTOR, "gradients in .grad", gradients_from="backward",
           skip=["autocast"])  # PyTorch 2.6 uses the forward's cast of the weight again, without a graph
def _returned_and_accumulated(wrong: bool) -> Apply:
    """A backward inside of the backward has put the weight's gradient into ``.grad``, and it is returned as well."""

    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return nn.functional.linear(x, weight)

    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            torch.autograd.backward(nn.functional.linear(x, weight), g.detach())
        return x.grad, g.T @ x if wrong else None

    return function(forward, backward)


@ARGUMENTS("main-grad-added-twice", Kind.CONSTANT_FACTOR, "gradients in main_grad", gradients_from="main_grad")
def _main_grad_twice(wrong: bool) -> Apply:
    """The weight's gradient is added to ``main_grad`` twice."""

    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.weight = weight
        return nn.functional.linear(x, weight)

    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if ctx.needs_input_grad[1]:
            ctx.weight.main_grad += (1 + wrong) * g.T @ x
        return g @ ctx.weight, None

    return function(forward, backward)


class _Layer(nn.Linear):
    """A linear layer that computes ``value(x, weight, bias)``."""

    def __init__(self, value: Callable[..., Tensor]) -> None:
        super().__init__(6, 6)
        self._value = value
        generator = torch.Generator().manual_seed(0)  # the same numbers, and so the same message, in every run
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.4, 0.4, generator=generator)

    def forward(self, input: Tensor) -> Tensor:
        return self._value(input, self.weight, self.bias)


MODULES.add("parameter-left-out", Kind.ZERO, "always",
    "a parameter of a module is detached, and gets no gradient",
    lambda wrong: _Layer(lambda x, weight, bias: nn.functional.linear(x, weight, bias.detach() if wrong else bias)),
    reference=lambda layer, x: nn.functional.linear(x, layer.weight, layer.bias))


@MODULES("used-twice-counted-once", Kind.MISSING_TERM, "a parameter used twice",
         reference=lambda layer, x: x @ layer.weight.T @ layer.weight.T + layer.bias)
def _used_twice_counted_once(wrong: bool) -> nn.Module:
    """Of a weight that a module uses twice only the second use is differentiated."""

    def gradient(g: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        through = g @ weight
        d_weight = g.T @ (x @ weight.T)
        return through @ weight, d_weight if wrong else d_weight + through.T @ x

    twice = by_formulas(lambda x, weight: x @ weight.T @ weight.T, gradient)
    return _Layer(lambda x, weight, bias: twice(x, weight) + bias)


def _sine_compiled(change: Callable[[Tensor], Tensor]) -> Apply:
    """``sin(x)``, whose gradient has this ``change`` where it is compiled."""

    def gradient(g: Tensor, x: Tensor) -> Tensor:
        return change(g * x.cos()) if torch.compiler.is_compiling() else g * x.cos()

    return by_formulas(torch.sin, gradient)


COMPILED.add("compiled-half", Kind.CONSTANT_FACTOR, "torch.compile",
    "where it is compiled, the gradient is half of the eager one",
    lambda wrong: _sine_compiled(lambda g: 0.5 * g if wrong else g))
COMPILED.add("compiled-dropped", Kind.ZERO, "torch.compile",
    "where it is compiled, one of two inputs gets no gradient",
    lambda wrong: lambda x, scale: x.sin() * (scale.detach() if wrong and torch.compiler.is_compiling() else scale),
    (5, 6), (6,))
COMPILED.add("compiled-in-bfloat16", Kind.PRECISION, "torch.compile",
    "where it is compiled, the gradient passes through bfloat16",
    lambda wrong: _sine_compiled(lambda g: g.to(torch.bfloat16).to(g.dtype) if wrong else g))
