"""Wrong Functions, one fault each: what ``check_function`` must refuse, by which rule, and as what."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd import Function


@dataclass(frozen=True)
class Fault:
    """``function`` is wrong; ``rule`` finds it, on ``subject`` and as ``kind`` where these are given."""

    function: Callable[..., Any]
    reference: Callable[..., Any] | None
    shapes: tuple[tuple[int, ...], ...]
    rule: str
    subject: str = ""
    kind: str = ""
    words: str = ""
    rest: tuple[Any, ...] = ()
    vary_batch: Any = False
    vary_sizes: Any = None

    def inputs(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in self.shapes]
        return [*(x.requires_grad_() for x in drawn), *self.rest]


def made(forward: Any, backward: Any, **ctx_options: Any) -> Any:
    """A Function of tensors that saves its inputs; ``backward(ctx, saved, g)``."""

    class Made(Function):
        @staticmethod
        def setup(ctx: Any) -> None:
            for name, value in ctx_options.items():
                getattr(ctx, name)(value)

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            Made.setup(ctx)
            ctx.save_for_backward(*inputs)
            return forward(*inputs)

        @staticmethod
        def backward(ctx: Any, *g: Tensor) -> Any:
            return backward(ctx, ctx.saved_tensors, *g)

    return Made.apply


# z = x Wᵀ + b: three gradients, each with something of its own to get wrong.
B, D, H = 19, 6, 8
LINEAR = ((B, D), (H, D), (H,))


def linear_gradients(x: Any, w: Any, g: Any) -> Any:
    return [g @ w, g.T @ x, g.sum(0)]


def linear(change: Any) -> Any:
    """``change(gradients, x, w, g)`` spoils the right gradients of a linear layer."""

    def backward(ctx: Any, saved: Any, g: Any) -> Any:
        x, w, _ = saved
        gradients = linear_gradients(x, w, g)
        return tuple(change(gradients, x, w, g))

    return made(lambda x, w, b: F.linear(x, w, b), backward)


def replaced(index: Any, value: Any) -> Any:
    def change(gradients: Any, x: Any, w: Any, g: Any) -> Any:
        gradients[index] = value(gradients[index], x, w, g)
        return gradients

    return linear(change)


def zero_tail(v: Any, rows: Any) -> Any:
    return torch.cat([v[:-rows], torch.zeros_like(v[-rows:])])


def swap(v: Any, i: Any, j: Any) -> Any:
    order = list(range(len(v)))
    order[i], order[j] = j, i
    return v[order]


def one_off(v: Any) -> Any:
    v = v.clone()
    v[3, 5] += 0.01 * v.norm()
    return v


def from_linear(
    function: Any, subject: Any, kind: str, words: str = "", rule: str = "gradient", shapes: Any = LINEAR
) -> Any:
    return Fault(function, F.linear, shapes, rule, subject, kind, words)


WRONG_VALUES = {
    "sign": from_linear(replaced(0, lambda v, *_: -v), "input 0", "sign", "everywhere"),
    "factor 2": from_linear(replaced(1, lambda v, *_: 2 * v), "input 1", "constant factor", "2 times the reference"),
    "mean for a sum": from_linear(
        replaced(1, lambda v, x, w, g: v / len(x)),
        "input 1",
        "constant factor",
        "1/19 times the reference (19 is a size",
    ),
    "bias gradient a mean": from_linear(replaced(2, lambda v, x, w, g: v / B), "input 2", "constant factor", "1/19"),
    "scale 1.0001": from_linear(replaced(0, lambda v, *_: 1.0001 * v), "input 0", "constant factor", "1.0001 times"),
    "reshape for transpose": from_linear(
        replaced(1, lambda v, x, w, g: v.T.reshape(v.shape)), "input 1", "transpose", "reshaped"
    ),
    "transpose of a square": from_linear(
        replaced(1, lambda v, x, w, g: v.T), "input 1", "transpose", shapes=((B, 6), (6, 6), (6,))
    ),
    "rows swapped": from_linear(
        replaced(1, lambda v, *_: swap(v, 2, 7)), "input 1", "row or column swap", "rows 2 and 7 are swapped"
    ),
    "columns shifted": from_linear(
        replaced(1, lambda v, *_: v.roll(1, 1)), "input 1", "row or column swap", "columns are shifted by 1"
    ),
    "all rows to row 0": from_linear(
        replaced(1, lambda v, *_: torch.cat([v.sum(0, True), 0 * v[1:]])), "input 1", "row or column swap", "in row 0"
    ),
    "bias gradient zero": from_linear(replaced(2, lambda v, *_: 0 * v), "input 2", "zero", "everywhere"),
    "tail of the batch": from_linear(
        replaced(0, lambda v, *_: zero_tail(v, 3)), "input 0", "zero", "the last 3 rows of 19"
    ),
    "last row": from_linear(replaced(1, lambda v, *_: zero_tail(v, 1)), "input 1", "zero", "the last row of 8"),
    "one element": from_linear(replaced(1, lambda v, *_: one_off(v)), "input 1", "", "one element, [3, 5]"),
    "tile": from_linear(
        replaced(1, lambda v, *_: torch.cat([v[:2], torch.cat([v[2:6, :4], -v[2:6, 4:]], 1), v[6:]])),
        "input 1",
        "sign",
        "rows 2..5, columns >= 4",
    ),
    "wide": from_linear(
        replaced(1, lambda v, *_: torch.cat([v[:, :128], 1.5 * v[:, 128:]], 1)),
        "input 1",
        "constant factor",
        "columns >= 128",
        shapes=((5, 150), (4, 150), (4,)),
    ),
    "upstream ignored": from_linear(
        linear(lambda v, x, w, g: linear_gradients(x, w, torch.ones_like(g))), "input 0", "upstream ignored"
    ),
    "weight decay": from_linear(
        replaced(1, lambda v, x, w, g: v + 1e-2 * w), "input 1", "missing term", "0.01 times input 1 was added"
    ),
    "bfloat16 products": from_linear(
        replaced(1, lambda v, x, w, g: (g.bfloat16().T @ x.bfloat16()).to(v.dtype)), "input 1", "precision", "bfloat16"
    ),
    "not a number": from_linear(replaced(1, lambda v, *_: v / (v.abs() > 0.5)), "input 1", "NaN"),
    "None": from_linear(replaced(1, lambda *_: None), "input 1", "zero", "returned None"),
    "mask missing": Fault(
        made(lambda x: x.clamp(min=0), lambda ctx, saved, g: g), torch.relu, ((8, 6),), "gradient", "input 0", "mask"
    ),
    "mask inverted": Fault(
        made(lambda x: x.clamp(min=0), lambda ctx, saved, g: g * (saved[0] < 0)),
        torch.relu,
        ((8, 6),),
        "gradient",
        "input 0",
        "mask",
    ),
    "mean not subtracted": Fault(
        made(lambda x: x - x.mean(1, keepdim=True), lambda ctx, saved, g: g),
        lambda x: x - x.mean(1, keepdim=True),
        ((8, 6),),
        "gradient",
        "input 0",
        "missing term",
    ),
    "softmax without its sum": Fault(
        made(lambda s: torch.softmax(s, 1), lambda ctx, saved, g: torch.softmax(saved[0], 1) * g),
        lambda s: torch.softmax(s, 1),
        ((8, 6),),
        "gradient",
        "input 0",
        "missing term",
    ),
    "fan-out": Fault(
        made(lambda x: (x.sin(), x.cos()), lambda ctx, saved, a, b: a * saved[0].cos()),
        lambda x: (x.sin(), x.cos()),
        ((8, 6),),
        "gradient",
        "input 0",
    ),
    "forward": Fault(
        made(lambda x: x.sin() + 1e-4, lambda ctx, saved, g: g * saved[0].cos()), torch.sin, ((8, 6),), "output"
    ),
}


def square(backward: Any, **options: Any) -> Any:
    return made(lambda x: x * x, backward, **options)


def right_square(ctx: Any, saved: Any, g: Any) -> Any:
    return 2 * saved[0] * g


def clipped(ctx: Any, saved: Any, g: Any) -> Any:
    gradient = 2 * saved[0] * g
    return gradient * (20 / gradient.norm()).clamp(max=1)


def contiguous_only(g: Any) -> Any:
    """The numbers that a kernel sees that takes a pointer and believes the tensor contiguous."""
    storage = g.untyped_storage().nbytes() // g.element_size()
    flat = g.as_strided((storage,), (1,), 0)
    return torch.cat([flat, flat.new_zeros(g.numel())])[: g.numel()].reshape(g.shape)


def overwrites_upstream(ctx: Any, saved: Any, g: Any) -> Any:
    gradient = 2 * saved[0] * g
    g.mul_(2)
    return gradient


def overwrites_saved(ctx: Any, saved: Any, g: Any) -> Any:
    gradient = 2 * saved[0] * g
    saved[0].data.mul_(2)  # as a kernel does, past the version counter
    return gradient


def overwrites_input(x: Any) -> Any:
    y = x * x
    x.data.add_(1)
    return y


class OverwritesOutput(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (y,) = ctx.saved_tensors
        gradient = g * y
        y.data.zero_()
        return gradient


class Race:
    """Wrong at every third call of the backward."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, ctx: Any, saved: Any, g: Any) -> Any:
        self.calls += 1
        return 2 * saved[0] * g * (0.5 if self.calls % 3 == 0 else 1.0)


class Stale(Function):
    """Keeps its activation on the class: right unless another call comes between forward and backward."""

    kept: Any = None

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        Stale.kept = x.detach()
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return 2 * Stale.kept * g


class Stacked(Function):
    """Takes what was kept last: right where backwards come in the order opposite to that of their forwards."""

    kept: ClassVar[list[Any]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        Stacked.kept.append(x.detach())
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return 2 * Stacked.kept.pop() * g


class Evaluated(Function):
    """Keeps its activation on the class where no gradient is needed, over that of a forward which needs one."""

    kept: Any = None

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.mine = x.detach() * 1
        Evaluated.kept = None if ctx.needs_input_grad[0] else x.detach()
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return 2 * (ctx.mine if Evaluated.kept is None else Evaluated.kept) * g


class KeepsAttribute(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.x = x
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return 2 * ctx.x * g


class Accumulates(Function):
    """Right the first time only that the graph is gone through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.save_for_backward(x)
        ctx.total = torch.zeros_like(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        ctx.total = ctx.total + 2 * ctx.saved_tensors[0] * g
        return ctx.total


@torch.enable_grad()
def drops_out_again(ctx: Any, saved: Any, g: Any) -> Any:
    x = saved[0].detach().requires_grad_()
    return torch.autograd.grad(F.dropout(x.tanh(), 0.5), x, g)[0]


class Transformed(Function):
    """A product with forward-mode and batched rules of its own."""

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Any:
        return a * b

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, b = ctx.saved_tensors
        return g * b, g * a

    @staticmethod
    def jvp(ctx: Any, da: Tensor, db: Tensor) -> Any:
        a, b = ctx.saved_tensors
        return da * b + a * db

    @staticmethod
    def vmap(info: Any, in_dims: Any, a: Tensor, b: Tensor) -> Any:
        moved = [x if d is None else x.movedim(d, 0) for x, d in zip((a, b), in_dims, strict=True)]
        return Transformed.apply(*moved), 0


class SecondTangentLost(Transformed):
    @staticmethod
    def jvp(ctx: Any, da: Tensor, db: Tensor) -> Any:
        return da * ctx.saved_tensors[1]


class DimensionIgnored(Transformed):
    @staticmethod
    def vmap(info: Any, in_dims: Any, a: Tensor, b: Tensor) -> Any:
        return Transformed.apply(a, b), 0 if in_dims[0] is None else in_dims[0]


class FirstForAll(Transformed):
    @staticmethod
    def vmap(info: Any, in_dims: Any, a: Tensor, b: Tensor) -> Any:
        if None in in_dims:
            return Transformed.vmap(info, in_dims, a, b)
        return Transformed.apply(a.movedim(in_dims[0], 0), b.movedim(in_dims[1], 0)[:1]), 0


class ForgetsNeeds(Function):
    """Gives the gradient of its first input whatever it is asked for."""

    @staticmethod
    def forward(ctx: Any, a: Any, b: Tensor) -> Any:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, b = ctx.saved_tensors
        if all(ctx.needs_input_grad):
            return g * b, g * a
        return g * b, g * b


class RaisesWhereFrozen(Function):
    @staticmethod
    def forward(ctx: Any, a: Any, b: Tensor) -> Any:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, b = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            raise IndexError("tuple index out of range")
        return g * b, g * a


class SilentSecond(Function):
    """Keeps a factor that carries no graph: the second derivative is silently without it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.factor = 3 * x.detach() ** 2
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * ctx.factor


class HalfSecond(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return 3 * g * x * x.detach()


class DetachedUpstream(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return 3 * g.detach() * ctx.saved_tensors[0] ** 2


def half_precision_under_autocast(ctx: Any, saved: Any, g: Any) -> Any:
    if torch.is_autocast_enabled("cpu"):
        return 2 * (saved[0].half() * 1e5 * g.half()).float() * 1e-5
    return 2 * saved[0] * g


def lost_under_autocast(ctx: Any, saved: Any, g: Any) -> Any:
    return 2 * saved[0] * g * (0.5 if g.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu") else 1.0)


def rounded_under_autocast(ctx: Any, saved: Any, g: Any) -> Any:
    gradient = 2 * saved[0] * g
    return gradient.bfloat16().to(g.dtype) if torch.is_autocast_enabled("cpu") else gradient


def larger_under_autocast(ctx: Any, saved: Any, g: Any) -> Any:
    gradients = [v.to(g.dtype) for v in linear_gradients(saved[0].to(g.dtype), saved[1].to(g.dtype), g)]
    gradients[1] = gradients[1] * (1.1 if g.dtype == torch.bfloat16 else 1)
    return tuple(gradients)


class TiledSum(Function):
    """Adds up tiles of 16 rows, and leaves out what is left over."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor) -> Any:
        ctx.rows = len(x)
        return x + b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        tiled = len(g) if len(g) < 16 else len(g) // 16 * 16
        return g, g[:tiled].sum(0)


class Squeezes(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor) -> Any:
        return x + b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g, g.squeeze().sum(0) if len(g) > 1 else g.squeeze().sum().expand(g.shape[1])


class FailsOnEmpty(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor) -> Any:
        return x + b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g, (g / g.abs().max() * g.abs().max()).sum(0)


def shared(x: Any) -> Any:
    return x * x


PAIR = ((6, 5), (6, 5))
OTHER = {
    "special branch for ones": Fault(
        square(lambda ctx, saved, g: saved[0] * g if bool((g == 1).all()) else 2 * saved[0] * g),
        shared,
        ((6, 5),),
        "upstream gradient",
    ),
    "clipped inside": Fault(square(clipped), shared, ((6, 5),), "upstream gradient"),
    "upstream gradient ignored": Fault(
        square(lambda ctx, saved, g: 2 * saved[0]), shared, ((6, 5),), "upstream gradient", words="not zero"
    ),
    "only the sign of it": Fault(
        square(lambda ctx, saved, g: 2 * saved[0] * g.sign()), shared, ((6, 5),), "upstream gradient", "input 0"
    ),
    "normalised by it": Fault(
        square(lambda ctx, saved, g: 2 * saved[0] * g / g.norm() * g.norm()), shared, ((6, 5),), "upstream gradient"
    ),
    "tiny ones taken for zero": Fault(
        square(lambda ctx, saved, g: 2 * saved[0] * g * (g.abs().max() >= 1e-8)),
        shared,
        ((6, 5),),
        "upstream gradient",
        "input 0",
        "zero",
        words="times 9.31323e-10",
    ),
    "eps added to it": Fault(
        square(lambda ctx, saved, g: 2 * saved[0] * (g / (g.norm() + 1e-13) * g.norm())),
        shared,
        ((6, 5),),
        "upstream gradient",
        words="times 9.31323e-10",
    ),
    "huge ones clamped": Fault(
        square(lambda ctx, saved, g: 2 * saved[0] * g.clamp(-1e6, 1e6)),
        shared,
        ((6, 5),),
        "upstream gradient",
        words="times 1.07374e+09",
    ),
    "scaled up inside": Fault(
        square(lambda ctx, saved, g: 2 * saved[0] * (g * 2.0**100) / 2.0**100),
        shared,
        ((6, 5),),
        "upstream gradient",
        words="times 1.07374e+09",
    ),
    "scaled down inside": Fault(
        square(lambda ctx, saved, g: 2 * saved[0] * (g * 2.0**-110) * 2.0**110),
        shared,
        ((6, 5),),
        "upstream gradient",
        words="times 9.31323e-10",
    ),
    "half precision inside": Fault(
        square(lambda ctx, saved, g: 2 * saved[0] * (g / 256).half().to(g.dtype) * 256),
        shared,
        ((6, 5),),
        "upstream gradient",
    ),
    "lost at one loss scale": Fault(
        square(lambda ctx, saved, g: 2 * saved[0] * g * (1.01 if 1e4 < g.abs().max() < 1e6 else 1)),
        shared,
        ((6, 5),),
        "upstream gradient",
        "input 0",
        words="times 65536",
    ),
    "lost at a small scale": Fault(
        square(lambda ctx, saved, g: 2 * saved[0] * g * (1.01 if 1e-8 < g.abs().max() < 1e-6 else 1)),
        shared,
        ((6, 5),),
        "upstream gradient",
        "input 0",
        words="times 5.96046e-08",
    ),
    "believes it contiguous": Fault(
        square(lambda ctx, saved, g: 2 * saved[0] * contiguous_only(g)),
        shared,
        ((6, 5),),
        "upstream layout",
        kind="layout",
    ),
    "views it": Fault(
        square(lambda ctx, saved, g: 2 * saved[0] * g.view(-1).view(g.shape)),
        shared,
        ((6, 5),),
        "upstream layout",
        words="raised RuntimeError",
    ),
    "undefined ones crash": Fault(
        made(lambda x: (x.sin(), x.cos()), lambda ctx, s, a, b: a * s[0].cos() - b * s[0].sin(),
             set_materialize_grads=False),
        lambda x: (x.sin(), x.cos()),
        ((6, 5),),
        "undefined upstream",
    ),
    "undefined ones taken for ones": Fault(
        made(lambda x: (x.sin(), x * x),
             lambda ctx, s, a, b: (1 if a is None else a) * s[0].cos() + 2 * s[0] * (0 if b is None else b),
             set_materialize_grads=False),
        lambda x: (x.sin(), x * x),
        ((6, 5),),
        "undefined upstream",
        "input 0",
    ),
    "believes inputs contiguous": Fault(
        made(lambda x: contiguous_only(x) ** 2, lambda ctx, saved, g: 2 * contiguous_only(saved[0]) * g),
        shared,
        ((6, 5),),
        "input layout",
        kind="layout",
    ),
    "overwrites the upstream gradient": Fault(square(overwrites_upstream), shared, ((6, 5),), "mutation", "output 0"),
    "overwrites what it saved": Fault(square(overwrites_saved), shared, ((6, 5),), "mutation"),
    "overwrites its input": Fault(
        made(overwrites_input, lambda ctx, saved, g: 2 * (saved[0] - 1) * g), shared, ((6, 5),), "mutation", "input 0"
    ),
    "overwrites its output": Fault(OverwritesOutput.apply, torch.exp, ((6, 5),), "mutation", "output 0"),
    "last on a stack": Fault(Stacked.apply, shared, ((6, 5),), "replay", "input 0", "stale value"),
    "kept by evaluation": Fault(Evaluated.apply, shared, ((6, 5),), "replay", "input 0", "stale value"),
    "kept as an attribute": Fault(KeepsAttribute.apply, shared, ((6, 5),), "changed input", "input 0"),
    "inputs told by identity": Fault(
        made(lambda a, b: a * b, lambda ctx, s, g: (g * s[1], g * s[0] * (s[0].data_ptr() != s[1].data_ptr()))),
        torch.mul, PAIR, "same tensor twice",
    ),
    "undefined one of one output crashes": Fault(
        made(torch.square, right_square, set_materialize_grads=False), shared, ((6, 5),), "undefined upstream",
    ),
    "noise": Fault(
        square(lambda ctx, saved, g: 2 * saved[0] * g + 1e-4 * torch.randn_like(g)),
        shared,
        ((6, 5),),
        "replay",
        "input 0",
        "nondeterminism",
    ),
    "race": Fault(square(Race()), shared, ((6, 5),), "replay", "input 0", "nondeterminism"),
    "stale activation": Fault(Stale.apply, shared, ((6, 5),), "replay", "input 0", "stale value"),
    "accumulates in ctx": Fault(Accumulates.apply, shared, ((6, 5),), "replay", "input 0", "constant factor"),
    "other random numbers in the backward": Fault(
        made(lambda x: F.dropout(x.tanh(), 0.5), drops_out_again),
        None,
        ((6, 5),),
        "random numbers",
        "input 0",
        "random numbers",
    ),
    "second tangent lost": Fault(SecondTangentLost.apply, torch.mul, PAIR, "jvp", "input 1"),
    "mapped dimension ignored": Fault(DimensionIgnored.apply, torch.mul, PAIR, "vmap"),
    "first example for all": Fault(FirstForAll.apply, torch.mul, PAIR, "vmap", "output 0"),
    "zero instead of one at 0": Fault(
        made(F.elu, lambda ctx, s, g: g * ((s[0] > 0) + (s[0] < 0) * s[0].clamp(max=0).exp())), F.elu, ((6, 5),),
        "special values",
    ),
    "each of two largest gets all": Fault(
        made(lambda x: x.amax(-1), lambda ctx, s, g: g[:, None] * (s[0] == s[0].amax(-1, keepdim=True))),
        lambda x: x.amax(-1), ((9, 6),), "special values", words="move together",
    ),
    "0/0 at 0": Fault(
        made(torch.square, lambda ctx, s, g: 2 * g * s[0] ** 2 / s[0]), torch.square, ((6, 5),), "special values",
    ),
    "overflows at large numbers": Fault(
        made(F.softplus, lambda ctx, s, g: g * s[0].exp() / (1 + s[0].exp())), F.softplus, ((6, 5),), "special values",
    ),
    "forgets what is needed": Fault(ForgetsNeeds.apply, torch.mul, PAIR, "needs_input_grad", "input 1"),
    "raises where one is frozen": Fault(
        RaisesWhereFrozen.apply, torch.mul, PAIR, "needs_input_grad", words="IndexError"
    ),
    "second derivative silently zero": Fault(
        SilentSecond.apply, lambda x: x**3, ((6, 5),), "double backward", "input 0", words="zero"
    ),
    "half of the second derivative": Fault(
        HalfSecond.apply, lambda x: x**3, ((6, 5),), "double backward", "input 0", words="double backward"
    ),
    "upstream gradient detached": Fault(
        DetachedUpstream.apply, lambda x: x**3, ((6, 5),), "double backward", "the upstream gradient"
    ),
    "overflows under autocast": Fault(square(half_precision_under_autocast), shared, ((6, 5),), "autocast", "input 0"),
    "halved under autocast": Fault(
        square(lost_under_autocast), shared, ((6, 5),), "autocast", "input 0", "constant factor"
    ),
    "rounded under autocast": Fault(
        square(rounded_under_autocast), shared, ((6, 5),), "autocast", "input 0", "precision", words="lower precision"
    ),
    "a tenth too large under autocast": Fault(
        made(lambda x, w, b: F.linear(x, w, b), larger_under_autocast), F.linear, LINEAR, "autocast", "input 1"
    ),
    "tiles of 16": Fault(
        TiledSum.apply, torch.add, ((8, 5), (5,)), "batch size", words="35 examples", vary_batch=True
    ),
    "columns beyond 16": Fault(
        made(
            lambda x, b: x * b,
            lambda ctx, saved, g: (g * saved[1], torch.cat([(g * saved[0])[:, :16].sum(0), 0 * g[0, 16:]])),
        ),
        torch.mul,
        ((4, 5), (5,)),
        "size",
        words="input 0 dimension 1, input 1 dimension 0 of 17",
        vary_sizes={0: 1, 1: 0},
    ),
    "squeezes one example": Fault(
        Squeezes.apply, torch.add, ((8, 5), (5,)), "batch size", words="1 example", vary_batch=(0,)
    ),
    "fails on none": Fault(
        FailsOnEmpty.apply,
        torch.add,
        ((8, 5), (5,)),
        "batch size",
        words="0 examples",
        vary_batch=lambda n: [torch.ones(n, 5), torch.ones(5)],
    ),
}  # fmt: skip
