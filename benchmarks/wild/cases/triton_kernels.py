"""Kernels in Triton, which need a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as fn

from benchmarks.wild.case import Call, Case, Expect, load

_OVER_SAVED = "the backward writes the gradient over what it saved: a second backward through the graph is wrong"
_OF_ONE = f"of one tensor given twice the gradient is wrong: {_OVER_SAVED}"
_AT_FORWARD = "the gradient is computed in the forward and scaled in the backward: no second derivative"


def _on_gpu(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda").requires_grad_()


def _log_probabilities(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda").log_softmax(-1).requires_grad_()


def _kernel(name: str, function: str, expect: Expect, fact: str, call: Callable[[Any], Callable[..., Any]],
            reference: Callable[..., Any], *inputs: Callable[[], Tensor]) -> Case:  # fmt: skip
    """``call`` makes the function that is checked out of the kernel's ``apply``."""

    def build() -> Call:
        return Call(
            call(load(f"liger_kernel.ops.{name}:Liger{function}").apply), [make() for make in inputs], reference
        )

    return Case("liger-kernel", f"Liger{function}", expect, fact, build, needs_gpu=True)


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return fn.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _angles(x: Tensor) -> tuple[Tensor, Tensor]:
    angles = torch.linspace(0, 1, 8 * 16, device="cuda", dtype=x.dtype).view(1, 8, 16)
    angles = torch.cat([angles[..., :8], angles[..., :8]], -1)
    return angles.cos(), angles.sin()


def _rope(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = _angles(q)
    return _rotated(q, cos, sin), _rotated(k, cos, sin)


def _labels() -> Tensor:
    return torch.arange(8, device="cuda") % 5


def _target(x: Tensor) -> Tensor:
    return torch.linspace(-1, 1, x.numel(), device="cuda", dtype=x.dtype).view_as(x).softmax(-1)


def _sparsemax(x: Tensor) -> Tensor:
    ordered = x.sort(-1, descending=True).values
    count = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=x.dtype)
    size = (1 + count * ordered > ordered.cumsum(-1)).sum(-1, keepdim=True)
    return (x - (ordered.cumsum(-1).gather(-1, size - 1) - 1) / size).clamp_min(0)


def _x(*shape: int) -> Callable[[], Tensor]:
    return lambda: _on_gpu(*shape)


def _jensen_shannon(x: Tensor) -> Tensor:
    p, q = _target(x), x.exp()
    middle = ((p + q) / 2).log()
    return 0.5 * ((p * (p.log() - middle)).sum() + (q * (x - middle)).sum()) / x.shape[0]


CASES = [
    _kernel("rms_norm", "RMSNormFunction", Expect.RIGHT, "root mean square normalisation, not in place",
            lambda f: lambda x, w: f(x, w, 1e-6, 0.0, "llama", False), _rms_norm, _x(8, 64), _x(64)),
    _kernel("fused_add_rms_norm", "FusedAddRMSNormFunction", Expect.RIGHT, "a residual and its normalisation",
            lambda f: lambda x, r, w: f(x, r, w, 1e-6), lambda x, r, w: (_rms_norm(x + r, w), x + r),
            _x(8, 64), _x(8, 64), _x(64)),
    _kernel("layer_norm", "LayerNormFunction", Expect.RIGHT, "layer normalisation",
            lambda f: lambda x, w, b: f(x, w, b, 1e-5), lambda x, w, b: fn.layer_norm(x, (64,), w, b, 1e-5),
            _x(8, 64), _x(64), _x(64)),
    _kernel("group_norm", "GroupNormFunction", Expect.RIGHT, "group normalisation",
            lambda f: lambda x, w, b: f(x, w, b, 4, 2, 1e-5), lambda x, w, b: fn.group_norm(x, 2, w, b, 1e-5),
            _x(3, 4, 16), _x(4), _x(4)),
    _kernel("softmax", "SoftmaxFunction", Expect.RIGHT, "softmax", lambda f: f, lambda x: x.softmax(-1), _x(8, 64)),
    _kernel("sparsemax", "SparsemaxFunction", Expect.RIGHT, "projection onto the simplex",
            lambda f: lambda x: f(x, -1), _sparsemax, _x(8, 64)),
    _kernel("dyt", "DyTFunction", Expect.RIGHT, "a scaled hyperbolic tangent", lambda f: f,
            lambda x, a, g, b: g * (a * x).tanh() + b, _x(8, 64), _x(1), _x(64), _x(64)),
    _kernel("relu_squared", "ReLUSquaredFunction", Expect.RIGHT, "squared ReLU", lambda f: f,
            lambda x: x.relu().square(), _x(8, 64)),
    _kernel("kl_div", "KLDivLossFunction", Expect.RIGHT, "a loss that is linear in its first input",
            lambda f: lambda x: f(x, _target(x), "batchmean", False, 1e-10),
            lambda x: fn.kl_div(x, _target(x), reduction="batchmean"), lambda: _log_probabilities(8, 64)),
    _kernel("tvd", "TVDLossFunction", Expect.RIGHT, "total variation: piecewise linear",
            lambda f: lambda x: f(x, _target(x), None, "batchmean"),
            lambda x: 0.5 * (x - _target(x)).abs().sum() / x.shape[0], lambda: _on_gpu(8, 64)),
    _kernel("jsd", "JSDFunction", Expect.SECOND, _AT_FORWARD,
            lambda f: lambda x: f(x, _target(x).log()), _jensen_shannon, lambda: _log_probabilities(8, 64)),
    _kernel("cross_entropy", "CrossEntropyFunction", Expect.BUG,
            "reads a transposed input as if it were contiguous; and the backward writes over what it saved",
            lambda f: lambda x: f(x.clone(), _labels(), None)[0],
            lambda x: fn.cross_entropy(x, _labels()), _x(8, 64)),
    _kernel("swiglu", "SiLUMulFunction", Expect.BUG, _OF_ONE, lambda f: f,
            lambda a, b: fn.silu(a) * b, _x(8, 64), _x(8, 64)),
    _kernel("geglu", "GELUMulFunction", Expect.BUG, _OF_ONE, lambda f: f,
            lambda a, b: fn.gelu(a, approximate="tanh") * b, _x(8, 64), _x(8, 64)),
    _kernel("rope", "RopeFunction", Expect.SECOND, "rotary embedding; writes into its inputs and the upstream gradient",
            lambda f: lambda q, k: f(q.clone(), k.clone(), *_angles(q)), _rope, _x(2, 3, 8, 16), _x(2, 1, 8, 16)),
]  # fmt: skip
