"""Functions that people write, with right backwards: what ``check_function`` must never refuse."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from tests.support.planted_faults import Transformed


class LayerNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: Any) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        centred = x - x.mean(-1, keepdim=True)
        return centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt() * weight + bias

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + ctx.eps).rsqrt()
        xhat, gw = centred * scale, g * weight
        dx = scale * (gw - gw.mean(-1, keepdim=True) - xhat * (gw * xhat).mean(-1, keepdim=True))
        lead = tuple(range(x.dim() - 1))
        return dx, (g * xhat).sum(lead), g.sum(lead), None


class RMSNorm(Function):
    """Keeps what its forward computed, and so says that it cannot be differentiated twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Any:
        scale = (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        ctx.save_for_backward(x, weight, scale)
        return x * scale * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        gw = g * weight
        dx = scale * gw - x * scale**3 * (gw * x).mean(-1, keepdim=True)
        return dx, (g * x * scale).flatten(0, -2).sum(0)


class Softmax(Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor) -> Any:
        p = torch.softmax(s, -1)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (p,) = ctx.saved_tensors
        return p * (g - (g * p).sum(-1, keepdim=True))


class LinearReLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Any:
        h = F.linear(x, weight, bias).clamp(min=0)
        ctx.save_for_backward(x, weight, h)
        return h

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight, h = ctx.saved_tensors
        dz = g * (h > 0)
        return dz @ weight, dz.T @ x, dz.sum(0)


class LogSumExp(Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, dim: Any) -> Any:
        y = torch.logsumexp(s, dim)
        ctx.dim = dim
        ctx.save_for_backward(s, y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        s, y = ctx.saved_tensors
        return g.unsqueeze(ctx.dim) * torch.exp(s - y.unsqueeze(ctx.dim)), None


class Embedding(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, index: Any) -> Any:
        ctx.save_for_backward(index)
        ctx.rows = len(weight)
        return weight[index]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        rows = torch.zeros(ctx.rows, g.shape[-1], dtype=g.dtype, device=g.device)
        return rows.index_add(0, index.flatten(), g.reshape(-1, g.shape[-1])), None


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


class Unmaterialized(Function):
    """Two outputs, and undefined upstream gradients seen to by itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        return x.exp(), x * x

    @staticmethod
    def backward(ctx: Any, d_exp: Any, d_square: Any) -> Any:
        (x,) = ctx.saved_tensors
        total = None if d_exp is None else d_exp * x.exp()
        if d_square is not None:
            total = 2 * d_square * x + (0 if total is None else total)
        return total


class SwiGLU(Function):
    @staticmethod
    def forward(ctx: Any, a: Any, b: Tensor) -> Any:
        ctx.save_for_backward(a, b)
        return a * torch.sigmoid(a) * b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, b = ctx.saved_tensors
        s = torch.sigmoid(a)
        return g * b * s * (1 + a * (1 - s)), g * a * s


class Attention(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Any:
        p = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1)
        ctx.save_for_backward(q, k, v, p)
        return p @ v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        q, k, v, p = ctx.saved_tensors
        dp = g @ v.mT
        ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5
        return ds @ k, ds.mT @ q, p.mT @ g


class CrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, labels: Any, reduction: Any) -> Any:
        ctx.save_for_backward(s, labels)
        ctx.reduction = reduction
        loss = torch.logsumexp(s, 1) - s.gather(1, labels[:, None])[:, 0]
        reductions: dict[str, Callable[[Tensor], Tensor]] = {"mean": torch.mean, "sum": torch.sum}
        return reductions.get(reduction, torch.clone)(loss)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        s, labels = ctx.saved_tensors
        d = torch.softmax(s, 1) - F.one_hot(labels, s.shape[1])
        g = g / len(s) if ctx.reduction == "mean" else g
        return (g[:, None] if g.dim() else g) * d, None, None


class MatMul(Function):
    @staticmethod
    def forward(ctx: Any, a: Any, b: Tensor) -> Any:
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, b = ctx.saved_tensors
        return g @ b.mT if ctx.needs_input_grad[0] else None, a.mT @ g if ctx.needs_input_grad[1] else None


class TopOne(Function):
    """The largest of each row, and where it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        value, index = x.max(1)
        ctx.save_for_backward(index)
        ctx.columns = x.shape[1]
        ctx.mark_non_differentiable(index)
        return value, index

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Any) -> Any:
        (index,) = ctx.saved_tensors
        return F.one_hot(index, ctx.columns) * g[:, None]


class WithNorms(Function):
    """A sine, and the squares' sums for a log, which it marks non-differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.save_for_backward(x)
        norms = x.square().sum(1)
        ctx.mark_non_differentiable(norms)
        return x.sin(), norms

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Any) -> Any:
        return g * ctx.saved_tensors[0].cos()


class Abs(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.save_for_backward(x)
        return x.abs()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * ctx.saved_tensors[0].sign()


class ExpInPlace(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x.exp_())
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * ctx.saved_tensors[0]


class Float32Only(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        if x.dtype != torch.float32:
            raise TypeError("this kernel takes float32")
        if not x.is_contiguous():
            raise ValueError("this kernel takes contiguous tensors")
        ctx.save_for_backward(x)
        return torch.tanh(x) * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        t = torch.tanh(x)
        return g * (t + x * (1 - t * t))


class Cube(Function):
    """In NumPy, as a user without a kernel would."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.save_for_backward(x)
        return torch.as_tensor(x.detach().numpy() ** 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        return torch.as_tensor(3 * ctx.saved_tensors[0].numpy() ** 2 * g.numpy())


class MeanSquare(Function):
    @staticmethod
    def forward(ctx: Any, a: Any, b: Tensor) -> Any:
        ctx.save_for_backward(a, b)
        return (a - b).square().mean()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, b = ctx.saved_tensors
        d = 2 * g * (a - b) / a.numel()
        return d, -d


class BroadcastAdd(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Any:
        return x + bias

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g, g.sum(0)


class Checkpointed(Function):
    """Keeps the state of the generator instead of the mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.state = torch.get_rng_state()
        ctx.save_for_backward(x)
        return F.dropout(x.tanh(), 0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(ctx.state)
            return torch.autograd.grad(F.dropout(x.tanh(), 0.5), x, g)[0]


class MaskedLike(Function):
    """A mask drawn in the precision and in the layout of the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        mask = torch.rand_like(x) < 0.5
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * ctx.saved_tensors[0]


class Dropout(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: Tensor) -> Any:
        mask = (torch.rand(x.shape, dtype=torch.float32) >= p).to(x.dtype) / (1 - p)
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * ctx.saved_tensors[0], None


def attention(q: Any, k: Any, v: Any) -> Any:
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1) @ v


def layer_norm(x: Any, weight: Any, bias: Any, eps: Any) -> Any:
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def rms_norm(x: Any, weight: Any) -> Any:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * weight


def dropout(x: Any, p: Any) -> Any:
    return x * (torch.rand(x.shape, dtype=torch.float32) >= p).to(x.dtype) / (1 - p)


@dataclass(frozen=True)
class Right:
    """``function`` and ``reference`` take Gaussian tensors of ``shapes`` that need a gradient, and then ``rest``."""

    function: Callable[..., Any]
    reference: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    rest: tuple[Any, ...] = ()
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64, torch.bfloat16)

    def inputs(self, seed: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Any:
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in self.shapes]
        return [*((scale * x).to(dtype).requires_grad_() for x in drawn), *self.rest]


LABELS = torch.tensor([2, 0, 1, 4, 4, 3, 0])
RIGHT = {
    "layer norm": Right(LayerNorm.apply, layer_norm, ((4, 6), (6,), (6,)), (1e-5,)),
    "layer norm, three axes": Right(LayerNorm.apply, layer_norm, ((2, 3, 5), (5,), (5,)), (1e-5,)),
    "rms norm": Right(RMSNorm.apply, rms_norm, ((5, 7), (7,))),
    "softmax": Right(Softmax.apply, lambda s: torch.softmax(s, -1), ((5, 6),)),
    "softmax of one row": Right(Softmax.apply, lambda s: torch.softmax(s, -1), ((9,),)),
    "linear relu": Right(LinearReLU.apply, lambda x, w, b: F.relu(F.linear(x, w, b)), ((7, 5), (6, 5), (6,))),
    "log-sum-exp": Right(LogSumExp.apply, torch.logsumexp, ((4, 5),), (1,)),
    "log-sum-exp of columns": Right(LogSumExp.apply, torch.logsumexp, ((4, 5),), (0,)),
    "embedding": Right(
        Embedding.apply, lambda w, i: F.embedding(i, w), ((8, 4),), (torch.tensor([[1, 1, 7], [0, 3, 1]]),)
    ),
    "sin and cos": Right(SinCos.apply, lambda x, n: (torch.sin(n * x), torch.cos(n * x)), ((3, 4),), (3,)),
    "unmaterialized": Right(Unmaterialized.apply, lambda x: (x.exp(), x * x), ((3, 4),)),
    "swiglu": Right(SwiGLU.apply, lambda a, b: F.silu(a) * b, ((4, 5), (4, 5))),
    "attention": Right(Attention.apply, attention, ((2, 5, 4), (2, 6, 4), (2, 6, 3))),
    "cross-entropy": Right(
        CrossEntropy.apply, lambda s, y, r: F.cross_entropy(s, y, reduction=r), ((7, 5),), (LABELS, "mean")
    ),
    "cross-entropies": Right(
        CrossEntropy.apply, lambda s, y, r: F.cross_entropy(s, y, reduction=r), ((7, 5),), (LABELS, "none")
    ),
    "product": Right(MatMul.apply, torch.matmul, ((5, 3), (3, 4))),
    "batched product": Right(MatMul.apply, torch.matmul, ((2, 5, 3), (2, 3, 4))),
    "largest of each row": Right(TopOne.apply, lambda x: x.max(1), ((6, 5),)),
    "absolute value": Right(Abs.apply, torch.abs, ((4, 5),)),
    "exponential in place": Right(ExpInPlace.apply, torch.exp, ((4, 5),)),
    "float32 only": Right(Float32Only.apply, lambda x: torch.tanh(x) * x, ((4, 5),), (), (torch.float32,)),
    "in NumPy": Right(Cube.apply, lambda x: x**3, ((4, 5),), (), (torch.float32, torch.float64)),
    "mean square": Right(MeanSquare.apply, F.mse_loss, ((4, 5), (4, 5))),
    "broadcast": Right(BroadcastAdd.apply, torch.add, ((4, 5), (5,))),
    "dropout": Right(Dropout.apply, dropout, ((4, 5),), (0.4,)),
    "dropout computed again": Right(Checkpointed.apply, lambda x: F.dropout(x.tanh(), 0.5), ((4, 5),)),
    "mask like its input": Right(MaskedLike.apply, lambda x: x * (torch.rand_like(x) < 0.5), ((4, 5),)),
    "transformed": Right(Transformed.apply, torch.mul, ((4, 5), (4, 5))),
    "one of two marked": Right(WithNorms.apply, lambda x: (x.sin(), x.square().sum(1)), ((4, 5),)),
    "one number": Right(Softmax.apply, lambda s: torch.softmax(s, -1), ((1,),)),
    "no rows": Right(MatMul.apply, torch.matmul, ((0, 3), (3, 4))),
    "large": Right(LinearReLU.apply, lambda x, w, b: F.relu(F.linear(x, w, b)), ((48, 70), (40, 70), (40,))),
}
