"""Activations, losses and other closed formulas."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as fn

from benchmarks.wild.case import Call, Case, Expect, load, normal, uniform

_TIMM = "timm.layers.activations_me:"
_MEMORY = "saves the input and recomputes the formula in the backward"


def _hard_mish(x: Tensor) -> Tensor:
    return 0.5 * x * (x + 2).clamp(0, 2)


def _away_from_kinks() -> Tensor:
    return torch.tensor([[-3.7, -1.3, -0.4, 0.3], [0.9, 2.2, 3.6, -2.6]], requires_grad=True)


def _bias_swiglu(x: Tensor, bias: Tensor) -> Tensor:
    gate, linear = torch.chunk(x + bias, 2, -1)
    return fn.silu(gate) * linear


def _bias_geglu(x: Tensor, bias: Tensor) -> Tensor:
    gate, linear = torch.chunk(x + bias, 2, -1)
    return fn.gelu(gate, approximate="tanh") * linear


def _swiglu(x: Tensor) -> Tensor:
    gate, linear = torch.chunk(x, 2, -1)
    return fn.silu(gate) * linear


def _focal() -> Call:
    target = torch.tensor([[[[0, 2]]], [[[3, 1]]]])
    return Call(
        lambda x: load("kornia.losses.focal:_TargetLogSoftmax").apply(x, target, None),
        [normal(2, 4, 1, 2)],
        lambda x: x.log_softmax(1).gather(1, target),
    )


def _xsoftmax() -> Call:
    mask = torch.rand(3, 5) > 0.3
    return Call(
        lambda x: load("transformers.models.sew_d.modeling_sew_d:XSoftmax").apply(x, mask, -1),
        [normal(3, 5)],
        lambda x: x.masked_fill(~mask, torch.finfo(x.dtype).min).softmax(-1).masked_fill(~mask, 0),
    )


def _reverse_sort() -> Call:
    order = torch.stack([torch.randperm(6) for _ in range(4)]).view(2, 2, 6)
    undo = order.argsort(-1)

    def reference(vectors: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        return vectors.gather(2, undo.unsqueeze(-1).expand(vectors.shape)), logits.gather(2, undo)

    function = load("transformers.models.reformer.modeling_reformer:ReverseSort").apply
    return Call(lambda v, s: function(v, s, order, undo), [normal(2, 2, 6, 3), normal(2, 2, 6)], reference)


def _e3nn() -> Call:
    return Call(load("e3nn.math:soft_unit_step"), [torch.tensor([-1.0, 0.3, 0.7, 2.0], requires_grad=True)])


def _diffsort() -> Call:
    function = load("diffsort.functional:NormalCDF").apply
    return Call(lambda x: function(x, 0.7), [normal(4, 3)], lambda x: torch.special.ndtr(x / 0.7),
                {"tolerance": 1e-7})  # fmt: skip


def _bounded_root() -> Call:
    return Call(load("transformers.models.recurrent_gemma.modeling_recurrent_gemma:SqrtBoundDerivative").apply,
                [uniform(3, 4)], torch.sqrt)  # fmt: skip


CASES = [
    Case("timm", "SwishAutoFn", Expect.RIGHT, _MEMORY,
         lambda: Call(load(_TIMM + "SwishAutoFn").apply, [normal(4, 6)], fn.silu)),
    Case("timm", "MishAutoFn", Expect.RIGHT, _MEMORY,
         lambda: Call(load(_TIMM + "MishAutoFn").apply, [normal(4, 6)], fn.mish)),
    Case("timm", "HardSigmoidAutoFn", Expect.RIGHT, _MEMORY,
         lambda: Call(load(_TIMM + "HardSigmoidAutoFn").apply, [_away_from_kinks()],
                      lambda x: fn.relu6(x + 3) / 6)),
    Case("timm", "HardSwishAutoFn", Expect.RIGHT, _MEMORY,
         lambda: Call(load(_TIMM + "HardSwishAutoFn").apply, [_away_from_kinks()], fn.hardswish)),
    Case("timm", "HardMishAutoFn", Expect.RIGHT, _MEMORY,
         lambda: Call(load(_TIMM + "HardMishAutoFn").apply, [_away_from_kinks()], _hard_mish)),
    Case("monai", "SwishImplementation", Expect.RIGHT, _MEMORY,
         lambda: Call(load("monai.networks.blocks.activation:SwishImplementation").apply, [normal(4, 6)], fn.silu)),
    Case("transformers", "GeLUFunction", Expect.RIGHT, "the tanh approximation of GELU",
         lambda: Call(load("transformers.models.bloom.modeling_bloom:GeLUFunction").apply, [normal(4, 6)],
                      lambda x: fn.gelu(x, approximate="tanh"))),
    Case("transformers", "XSoftmax", Expect.RIGHT, "a masked softmax", _xsoftmax),
    Case("transformers", "ReverseSort", Expect.RIGHT, "gathers back in the inverse order", _reverse_sort),
    Case("transformers", "SqrtBoundDerivative", Expect.RIGHT, "clips the slope of a root near 0 only", _bounded_root),
    Case("kornia", "_TargetLogSoftmax", Expect.RIGHT, "logarithmic softmax at the target class", _focal),
    Case("e3nn", "_SoftUnitStep", Expect.RIGHT, "exp(-1/x) for positive x", _e3nn),
    Case("diffsort", "NormalCDF", Expect.RIGHT,
         "the normal distribution; keeps sigma in float32, so that it is right to 1e-8 for float64",
         _diffsort),
    Case("megatron-core", "GeLUFunction", Expect.RIGHT, "the tanh approximation of GELU, with a bias",
         lambda: Call(load("megatron.core.fusions.fused_bias_gelu:GeLUFunction").apply, [normal(4, 6), normal(6)],
                      lambda x, b: fn.gelu(x + b, approximate="tanh"))),
    Case("megatron-core", "BiasSwiGLUFunction", Expect.RIGHT, "a gated SiLU with a bias",
         lambda: Call(lambda x, b: load("megatron.core.fusions.fused_bias_swiglu:BiasSwiGLUFunction").apply(
             x, b, False, False), [normal(4, 6), normal(6)], _bias_swiglu)),
    Case("megatron-core", "SwiGLUFunction", Expect.RIGHT, "a gated SiLU",
         lambda: Call(lambda x: load("megatron.core.fusions.fused_bias_swiglu:SwiGLUFunction").apply(x, False, False),
                      [normal(4, 6)], _swiglu)),
    Case("megatron-core", "BiasGeGLUFunction", Expect.RIGHT, "a gated GELU with a bias",
         lambda: Call(load("megatron.core.fusions.fused_bias_geglu:BiasGeGLUFunction").apply,
                      [normal(4, 6), normal(6)], _bias_geglu)),
]  # fmt: skip
