"""RMS normalisation in Triton, with its backward and five faults to choose from.

Runs on a GPU, or, with ``TRITON_INTERPRET=1`` in the environment, slowly on a CPU.
"""

import os
from typing import Any

import torch
import triton  # type: ignore[import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-6
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
FAULTS = (
    "the scale taken for a constant",
    "the mean over a padded row",
    "the last column not written",
    "the last row alone in the weight's gradient",
    "the upstream gradient read as contiguous",
)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def forward_kernel(x, w, y, scale, n, eps, BLOCK: tl.constexpr, COMPUTE: tl.constexpr):  # type: ignore
    row, columns = tl.program_id(0), tl.arange(0, BLOCK)
    inside = columns < n
    x_row = tl.load(x + row * n + columns, mask=inside, other=0.0).to(COMPUTE)
    w_row = tl.load(w + columns, mask=inside, other=0.0).to(COMPUTE)
    r = 1.0 / tl.sqrt(tl.sum(x_row * x_row, 0) / n + eps)
    tl.store(scale + row, r)
    tl.store(y + row * n + columns, (x_row * r * w_row).to(y.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def backward_kernel(  # type: ignore
    g, x, w, scale, dx, dw, n, written, terms,
    BLOCK: tl.constexpr, COMPUTE: tl.constexpr, CONSTANT_SCALE: tl.constexpr,
):  # fmt: skip
    """``terms`` are those that the mean over a row is divided by, ``written`` the columns of ``dx`` that are stored."""
    row, columns = tl.program_id(0), tl.arange(0, BLOCK)
    inside = columns < n
    g_row = tl.load(g + row * n + columns, mask=inside, other=0.0).to(COMPUTE)
    x_row = tl.load(x + row * n + columns, mask=inside, other=0.0).to(COMPUTE)
    w_row = tl.load(w + columns, mask=inside, other=0.0).to(COMPUTE)
    r = tl.load(scale + row)
    through = g_row * w_row
    gradient = r * through
    if not CONSTANT_SCALE:
        gradient -= r * r * r * x_row * (tl.sum(through * x_row, 0) / terms)
    tl.store(dx + row * n + columns, gradient.to(dx.dtype.element_ty), mask=columns < written)
    tl.store(dw + row * n + columns, g_row * x_row * r, mask=inside)


class RMSNorm(torch.autograd.Function):
    """``x · w / √(mean x² + ε)`` along the last dimension; every row's part of the weight's gradient is added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, fault: Any = "") -> Any:
        x, w = x.contiguous(), w.contiguous()
        rows, n = x.numel() // x.shape[-1], x.shape[-1]
        wide = x.dtype == torch.float64
        y, scale = torch.empty_like(x), x.new_empty(rows, dtype=torch.float64 if wide else torch.float32)
        ctx.block, ctx.compute = triton.next_power_of_2(n), tl.float64 if wide else tl.float32
        if rows:
            forward_kernel[(rows,)](x, w, y, scale, n, EPS, BLOCK=ctx.block, COMPUTE=ctx.compute)
        ctx.save_for_backward(x, w, scale)
        ctx.fault = fault
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w, scale = ctx.saved_tensors
        n = x.shape[-1]
        constant, padded, unwritten, last_row, unread = (ctx.fault == fault for fault in FAULTS)
        g = g.as_strided(g.shape, x.stride()) if unread else g.contiguous()
        dx, dw = torch.zeros_like(x), x.new_empty(scale.numel(), n, dtype=scale.dtype)
        if scale.numel():
            backward_kernel[(scale.numel(),)](
                g, x, w, scale, dx, dw, n, n - unwritten, ctx.block if padded else n,
                BLOCK=ctx.block, COMPUTE=ctx.compute, CONSTANT_SCALE=constant,
            )  # fmt: skip
        return dx, (dw[-1] if last_row else dw.sum(0)).to(w.dtype), None
