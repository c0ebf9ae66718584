"""Whole Functions whose fault shows in how they are called: again, after another call, with one tensor twice."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.mutants.whole_function import Apply, FunctionGroup, by_formulas, function

# fmt: off


def _both(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.sin(), x.cos()


def _a_sine(a: Tensor, b: Tensor) -> Tensor:
    return a * b.sin()


RANDOM = FunctionGroup("random numbers", (20, 20), reference=None)
STATE = FunctionGroup("kept state", (5, 6), reference=torch.sin)
CALLS = FunctionGroup("ways to call", (5, 6), reference=_both)
METHODS = FunctionGroup("methods of their own", (5, 6), (5, 6), reference=_a_sine)


def _dropped(x: Tensor) -> Tensor:
    return F.dropout(x.tanh(), 0.5)


def _recomputed(*, restores: bool = True, late: bool = False) -> Apply:
    """``_dropped``, computed again in the backward; ``restores`` the random state, kept before or too ``late``."""

    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        before = torch.get_rng_state()
        y = _dropped(x)
        ctx.state = torch.get_rng_state() if late else before
        return y

    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            if restores:
                torch.set_rng_state(ctx.state)
            y = _dropped(x)
        return torch.autograd.grad(y, x, g)[0]

    return function(forward, backward)


RANDOM.add("mask-drawn-again", Kind.RANDOM_NUMBERS, "recomputation",
    "the backward recomputes the forward with another dropout mask", lambda wrong: _recomputed(restores=not wrong))
RANDOM.add("random-state-kept-late", Kind.RANDOM_NUMBERS, "recomputation",
    "the backward restores the random state after the forward, not the one before it",
    lambda wrong: _recomputed(late=wrong))


@RANDOM("mask-drawn-in-backward", Kind.RANDOM_NUMBERS, "random numbers in the forward")
def _mask_drawn_in_backward(wrong: bool) -> Apply:
    """The backward draws a mask of its own."""

    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mask = torch.rand(x.shape) < 0.5
        return x * ctx.mask

    return function(forward, lambda ctx, g: g * (torch.rand(g.shape) < 0.5 if wrong else ctx.mask))


def _sine(keep: Callable[[Any, Tensor], object], slope: Callable[[Any], Tensor]) -> Apply:
    """``sin(x)``: the forward saves ``x`` and calls ``keep(ctx, x)``, the backward multiplies by ``slope(ctx)``."""

    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        keep(ctx, x)
        return x.sin()

    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * slope(ctx)

    return function(forward, once_differentiable(backward))


@STATE("kept-on-the-class", Kind.STALE_VALUE, "two forwards before a backward")
def _kept_on_the_class(wrong: bool) -> Apply:
    """The input is kept outside of ``ctx``, where the next call overwrites it."""
    kept: dict[str, Tensor] = {}
    return _sine(lambda ctx, x: kept.update(x=x), lambda ctx: (kept["x"] if wrong else ctx.saved_tensors[0]).cos())


@STATE("kept-on-a-stack", Kind.STALE_VALUE, "two forwards before a backward")
def _kept_on_a_stack(wrong: bool) -> Apply:
    """Inputs are kept on a stack, as if backwards always came in the reverse order of their forwards."""
    stack: list[Tensor] = []

    def slope(ctx: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        top = stack.pop() if stack else x
        return (top if wrong and top.shape == x.shape else x).cos()

    return _sine(lambda ctx, x: stack.append(x), slope)


@STATE("workspace-written-again", (Kind.STALE_VALUE, Kind.MUTATION), "two forwards before a backward")
def _workspace(wrong: bool) -> Apply:
    """The slope is kept in a buffer that the next forward writes to."""
    buffers: dict[Any, Tensor] = {}

    def keep(ctx: Any, x: Tensor) -> None:
        ctx.slope = buffers.setdefault((x.shape, x.dtype), x.cos()).copy_(x.cos()) if wrong else x.cos()

    return _sine(keep, lambda ctx: ctx.slope)


@STATE("overwritten-by-evaluation", Kind.STALE_VALUE, "evaluation between forward and backward")
def _overwritten_by_evaluation(wrong: bool) -> Apply:
    """The backward reads what a forward that needed no gradient has kept meanwhile."""
    kept: Any = {}
    apply = by_formulas(torch.sin, lambda g, x: g * (kept.get(x.shape, x) if wrong else x).cos())

    def call(x: Tensor) -> Tensor:
        kept.clear()
        if not (x.requires_grad and torch.is_grad_enabled()):
            kept[x.shape] = x
        return apply(x)

    return call


STATE.add("kept-unprotected", (Kind.MUTATION, Kind.STALE_VALUE), "input changed after the forward",
    "the input is kept as an attribute, where autograd does not see that it is changed in place",
    lambda wrong: _sine(lambda ctx, x: setattr(ctx, "x", x.detach()),
                        lambda ctx: (ctx.x if wrong else ctx.saved_tensors[0]).cos()))


@STATE("tail-never-written", Kind.UNINITIALISED, "always", (12, 8))
def _tail_never_written(wrong: bool) -> Apply:
    """The last rows of the gradient are whatever was in memory before."""

    def gradient(g: Tensor, x: Tensor) -> Tensor:
        d_x, rows = torch.empty_like(g), len(g) - 3 if wrong else len(g)
        d_x[:rows] = g[:rows] * x[:rows].cos()
        return d_x

    return by_formulas(torch.sin, gradient)


CALLS.add("same-tensor-counted-once", (Kind.CONSTANT_FACTOR, Kind.MISSING_TERM), "same tensor twice",
    "a tensor that is given twice is told by its address, and its gradient counted once",
    lambda wrong: by_formulas(torch.mul, lambda g, a, b: (
        g * b, None if wrong and a.data_ptr() == b.data_ptr() else g * a)),
    (5, 6), (5, 6), reference=torch.mul)


def _sine_and_cosine(taken: Callable[[Any, Any], tuple[Any, Any]]) -> Apply:
    """Two outputs, whose upstream gradients may be ``None``, of which ``taken`` is made what counts."""

    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        return x.sin(), x.cos()

    def backward(ctx: Any, *upstream: Tensor | None) -> Tensor | None:
        (x,) = ctx.saved_tensors
        d_sin, d_cos = taken(*upstream)
        through_sin = None if d_sin is None else d_sin * x.cos()
        if d_cos is None:
            return through_sin
        return -d_cos * x.sin() + (0 if through_sin is None else through_sin)

    return function(forward, backward)


CALLS.add("undefined-upstream-drops-all", (Kind.ZERO, Kind.MISSING_TERM), "one output unused",
    "where one of two upstream gradients is undefined there is no gradient at all",
    lambda wrong: _sine_and_cosine(lambda s, c: (None, None) if wrong and (s is None or c is None) else (s, c)))
CALLS.add("undefined-upstream-is-one", Kind.MISSING_TERM, "one output unused",
    "an undefined upstream gradient is taken to be 1",
    lambda wrong: _sine_and_cosine(
        lambda s, c: (1, c) if wrong and s is None else (s, 1) if wrong and c is None else (s, c)))


def _product(gradient: Callable[..., Any], **methods: Callable[..., Any]) -> Apply:
    """``a · sin(b)`` with ``setup_context``."""

    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs)

    def backward(ctx: Any, g: Tensor) -> Any:
        return gradient(g, *ctx.saved_tensors)

    return function(_a_sine, backward, setup_context=setup_context, **methods)


def _a_sine_gradients(g: Tensor, a: Tensor, b: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return g * b.sin(), g * a * b.cos()


METHODS.add("setup-context-saves-output", Kind.WRONG_VALUES, "always",
    "``setup_context`` saves the output where the backward expects the first input",
    lambda wrong: _product(lambda g, a, b, y: _a_sine_gradients(g, y if wrong else a, b, y)))


def _by_jvp(tangent: Callable[..., Tensor]) -> Apply:
    return _product(_a_sine_gradients, jvp=lambda ctx, d_a, d_b: tangent(d_a, d_b, *ctx.saved_tensors))


METHODS.add("jvp-second-tangent-lost", Kind.MISSING_TERM, "forward-mode derivative",
    "its ``jvp`` leaves the second input's tangent out",
    lambda wrong: _by_jvp(lambda d_a, d_b, a, b: d_a * b.sin() + (0 if wrong else d_b * a * b.cos())))
METHODS.add("jvp-twice", Kind.CONSTANT_FACTOR, "forward-mode derivative", "its ``jvp`` is twice the derivative",
    lambda wrong: _by_jvp(lambda d_a, d_b, a, b: (1 + wrong) * (d_a * b.sin() + d_b * a * b.cos())))


def _batched(wrong_dims: bool = False, first_for_all: bool = False) -> Apply:
    """``_product`` with a ``vmap``, which may take all batch dimensions to be the first, or one ``b`` for all."""

    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        a, b = (
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(0 if wrong_dims else dim, 0)
            for x, dim in zip(inputs, dims, strict=True)
        )
        return apply(a, b[:1].expand_as(b) if first_for_all else b), 0

    apply = _product(_a_sine_gradients, vmap=vmap)
    return apply


METHODS.add("vmap-dimension-ignored", (Kind.LAYOUT, Kind.TRANSPOSE), "vmap over dimension 1",
    "its ``vmap`` takes every batch dimension to be the first",
    lambda wrong: _batched(wrong_dims=wrong), (5, 5), (5, 5))
METHODS.add("vmap-first-for-all", (Kind.MISSING_TERM, Kind.PERMUTATION), "vmap",
    "its ``vmap`` gives every example the first one's second argument", lambda wrong: _batched(first_for_all=wrong))
