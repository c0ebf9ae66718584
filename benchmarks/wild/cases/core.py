"""PyTorch's own operations, whose derivatives are written by hand in C++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as fn

from benchmarks.wild.case import Call, Case, Expect, normal, uniform

_RIGHT = "a derivative written by hand in C++"


def _spd(x: Tensor) -> Tensor:
    return x @ x.mT + torch.eye(x.shape[-1], dtype=x.dtype)


def _op(name: str, function: Callable[..., Any], *inputs: Callable[[], Tensor], expect: Expect = Expect.RIGHT,
        fact: str = _RIGHT, **options: Any) -> Case:  # fmt: skip
    return Case("torch", name, expect, fact, lambda: Call(function, [make() for make in inputs], options=options))


def _n(*shape: int) -> Callable[[], Tensor]:
    return lambda: normal(*shape)


def _u(*shape: int, low: float = 0.1, high: float = 0.9) -> Callable[[], Tensor]:
    return lambda: uniform(*shape, low=low, high=high)


def _strided_batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The weight as every second element of a larger tensor."""
    strided = torch.stack([weight, weight], 1).view(-1)[::2]
    return fn.batch_norm(x, None, None, strided, bias, training=True)


def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    deviation = x - x.mean(0)
    return deviation * (deviation.square().mean(0) + 1e-5).rsqrt() * weight + bias


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return fn.scaled_dot_product_attention(q, k, v, is_causal=True)


def _ctc(x: Tensor) -> Tensor:
    return fn.ctc_loss(x.log_softmax(-1), torch.tensor([[1, 2], [3, 1]]), torch.tensor([5, 5]), torch.tensor([2, 2]))


def _grid_sample(x: Tensor, grid: Tensor) -> Tensor:
    return fn.grid_sample(x, grid, align_corners=False)


_INDEX = torch.tensor([[0, 2, 1], [3, 1, 0]])

CASES = [
    Case("torch", "batch_norm with a strided weight", Expect.BUG,
         "on a CPU the backward of two dimensions, or of channels_last, reads a weight with strides as contiguous",
         lambda: Call(_strided_batch_norm, [normal(4, 3), normal(3), normal(3)], _batch_norm)),
    _op("batch_norm of three dimensions", lambda x, w, b: fn.batch_norm(x, None, None, w, b, training=True),
        _n(4, 3, 5), _n(3), _n(3)),
    _op("matrix_exp", torch.matrix_exp, _n(4, 4), expect=Expect.BUG, fact="right for upstream gradients about 1; the "
        "backward exponentiates a matrix with the upstream gradient as a block, and is wrong at a loss scale of 2^16"),
    Case("torch", "hardsigmoid", Expect.RIGHT, "its slope 1/6 is rounded to float32, also for float64: right to 1e-8",
         lambda: Call(fn.hardsigmoid, [torch.tensor([-3.7, -1.3, 0.3, 2.2, 3.6], requires_grad=True)],
                      lambda x: fn.relu6(x + 3) / 6, {"tolerance": 1e-7})),
    _op("softmax", lambda x: x.softmax(-1), _n(3, 5)),
    _op("log_softmax", lambda x: x.log_softmax(-1), _n(3, 5)),
    _op("logsumexp", lambda x: x.logsumexp(-1), _n(3, 5)),
    _op("cross_entropy", lambda x: fn.cross_entropy(x, torch.tensor([1, 0, 4])), _n(3, 5)),
    _op("kl_div", lambda x: fn.kl_div(x.log_softmax(-1), torch.full((3, 5), 0.2, dtype=x.dtype)), _n(3, 5)),
    _op("ctc_loss", _ctc, _n(5, 2, 4)),
    _op("gelu", fn.gelu, _n(3, 4)),
    _op("silu", fn.silu, _n(3, 4)),
    _op("mish", fn.mish, _n(3, 4)),
    _op("elu", fn.elu, _n(3, 4)),
    _op("softplus", fn.softplus, _n(3, 4)),
    _op("logsigmoid", fn.logsigmoid, _n(3, 4)),
    _op("glu", lambda x: fn.glu(x, -1), _n(3, 4)),
    _op("prelu", fn.prelu, _n(3, 4), _u(4)),
    _op("layer_norm", lambda x, w, b: fn.layer_norm(x, (5,), w, b), _n(3, 5), _n(5), _n(5)),
    _op("group_norm", lambda x, w, b: fn.group_norm(x, 2, w, b), _n(2, 4, 3), _n(4), _n(4)),
    _op("rms_norm", lambda x, w: fn.rms_norm(x, (5,), w, 1e-6), _n(3, 5), _n(5)),
    _op("local_response_norm", lambda x: fn.local_response_norm(x, 3), _n(2, 4, 5)),
    _op("normalize", lambda x: fn.normalize(x, dim=-1), _n(3, 5)),
    _op("conv2d", lambda x, w, b: fn.conv2d(x, w, b, stride=2, padding=1), _n(2, 2, 5, 5), _n(3, 2, 3, 3), _n(3)),
    _op("conv_transpose2d", lambda x, w: fn.conv_transpose2d(x, w, stride=2), _n(2, 3, 3, 3), _n(3, 2, 2, 2)),
    _op("avg_pool2d", lambda x: fn.avg_pool2d(x, 2), _n(1, 2, 6, 6)),
    _op("max_pool2d", lambda x: fn.max_pool2d(x, 2), _n(1, 2, 6, 6)),
    _op("adaptive_avg_pool1d", lambda x: fn.adaptive_avg_pool1d(x, 3), _n(2, 2, 7)),
    _op("interpolate, bicubic", lambda x: fn.interpolate(x, scale_factor=1.7, mode="bicubic"), _n(1, 2, 5, 5)),
    _op("grid_sample", _grid_sample, _n(1, 2, 5, 5), lambda: uniform(1, 3, 3, 2, low=-0.83, high=0.79)),
    _op("unfold", lambda x: fn.unfold(x, 2), _n(1, 2, 4, 4)),
    _op("scaled_dot_product_attention", _attention, _n(1, 2, 5, 4), _n(1, 2, 5, 4), _n(1, 2, 5, 4)),
    _op("cumsum", lambda x: x.cumsum(-1), _n(3, 5)),
    _op("cumprod", lambda x: x.cumprod(-1), _n(3, 5)),
    _op("logcumsumexp", lambda x: x.logcumsumexp(-1), _n(3, 5)),
    _op("prod", lambda x: x.prod(-1), _n(3, 5)),
    _op("std", lambda x: x.std(-1), _n(3, 5)),
    _op("norm", lambda x: x.norm(dim=-1), _n(3, 5)),
    _op("cdist", torch.cdist, _n(4, 3), _n(5, 3)),
    _op("renorm", lambda x: x.renorm(2, 0, 1.0), _n(3, 5)),
    _op("gather", lambda x: x.gather(1, _INDEX), _n(2, 4)),
    _op("index_add", lambda x, y: x.index_add(0, torch.tensor([0, 2, 0]), y), _n(4, 3), _n(3, 3)),
    _op("scatter_reduce, product", lambda x, y: x.scatter_reduce(1, _INDEX, y, "prod"), _n(2, 4), _n(2, 3)),
    _op("linalg.solve", torch.linalg.solve, _n(4, 4), _n(4, 2)),
    _op("linalg.inv", torch.linalg.inv, _n(4, 4)),
    _op("linalg.cholesky", lambda x: torch.linalg.cholesky(_spd(x)), _n(4, 4)),
    _op("linalg.qr", torch.linalg.qr, _n(5, 3)),
    _op("linalg.eigvalsh", lambda x: torch.linalg.eigvalsh(_spd(x)), _n(4, 4)),
    _op("linalg.svdvals", torch.linalg.svdvals, _n(4, 3)),
    _op("linalg.det", torch.linalg.det, _n(4, 4)),
    _op("linalg.slogdet", lambda x: torch.linalg.slogdet(x)[1], _n(4, 4)),
    _op("linalg.pinv", torch.linalg.pinv, _n(5, 3)),
    _op("linalg.lstsq", lambda a, b: torch.linalg.lstsq(a, b).solution, _n(5, 3), _n(5, 2)),
    _op("fft.rfft", lambda x: torch.view_as_real(torch.fft.rfft(x)), _n(3, 6)),
    _op("stft", lambda x: torch.stft(x, 4, window=torch.ones(4, dtype=x.dtype), return_complex=True).abs(), _n(2, 9)),
    _op("special.erfinv", torch.special.erfinv, _u(3, 4)),
    _op("special.ndtr", torch.special.ndtr, _n(3, 4)),
    _op("special.log_ndtr", torch.special.log_ndtr, _n(3, 4)),
    _op("special.i1e", torch.special.i1e, _u(3, 4)),
    _op("lgamma", torch.lgamma, _u(3, 4)),
    _op("digamma", torch.digamma, _u(3, 4), tolerance=1e-7,
        fact="trigamma is a short asymptotic series, also for float64: right to 1e-9"),
    _op("logit", torch.logit, _u(3, 4)),
    _op("atan2", torch.atan2, _n(3, 4), _n(3, 4)),
    _op("pow", torch.pow, _u(3, 4), _n(3, 4)),
    _op("xlogy", torch.xlogy, _u(3, 4), _u(3, 4)),
    _op("sinc", torch.sinc, _n(3, 4)),
    _op("log near 0", torch.log, lambda: torch.tensor([1e-9, 0.3], requires_grad=True)),
    _op("acos near 1", torch.acos, lambda: torch.tensor([1 - 1e-7, 0.3], requires_grad=True)),
    _op("dropout", lambda x: fn.dropout(x, 0.5), _n(4, 6)),
]  # fmt: skip
