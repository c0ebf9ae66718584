"""Straight-through estimators of quantisers, gradient reversal, and losses that ride on an identity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.wild.case import Call, Case, Expect, load, normal, uniform

_BREVITAS, _AO = "brevitas.ops.autograd_ste_ops:", "torchao."
_IBERT, _BITNET = "transformers.models.ibert.quant_modules:", "transformers.integrations.bitnet:"
_THROUGH = {"intended": "straight-through"}


def _through(package: str, name: str, path: str, what: str, *more: Any) -> Case:
    def build() -> Call:
        function = load(path).apply
        return Call(lambda x: function(x, *more), [normal(3, 4)], options=_THROUGH)

    return Case(package, name, Expect.INTENDED, f"passes the gradient through {what}", build)


def _bounds(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.tensor(-0.5).to(x), torch.tensor(0.5).to(x)


def _clamp(name: str, *skip: str) -> Call:
    return Call(lambda x: load(_BREVITAS + name).apply(x, *_bounds(x)), [normal(3, 4)],
                options={**_THROUGH, "skip": list(skip)})  # fmt: skip


def _reversal(path: str, *more: Any) -> Call:
    return Call(lambda x: load(path).apply(x, *more), [normal(3, 4)], options={"intended": "gradient reversal"})


def _scaler(path: str) -> Call:
    return Call(
        load(path).apply,
        [normal(3, 4), normal(1)],
        options={
            "intended": "an auxiliary loss rides on an identity",
            "skip": ["upstream gradient", "undefined upstream"],
        },
    )


def _symmetric() -> Call:
    function = load(_IBERT + "SymmetricQuantFunction").apply
    return Call(lambda x: function(x, 8, False, torch.tensor([0.1]).to(x)), [normal(3, 4)], options=_THROUGH)


def _multiplier() -> Call:
    function = load("transformers.models.phimoe.modeling_phimoe:PhimoeMultiplier").apply

    def routed(scores: Tensor) -> Any:
        chosen = torch.tensor([[0], [2], [1]])
        gates = scores.detach().softmax(-1)
        return function(scores, gates.gather(-1, chosen), chosen, gates, torch.ones(3, 1).to(scores))

    return Call(routed, [normal(3, 4)], options={"intended": "sampled experts, Heun's estimator"})


def _input_only() -> Call:
    weight = torch.randn(4, 4)
    function = load("transformers.loss.loss_lsd:_InputOnlyGrad").apply
    return Call(lambda x: function(x, lambda u: (u @ weight.to(u)).tanh()), [normal(3, 4)],
                lambda x: (x @ weight.to(x)).tanh())  # fmt: skip


def _guided() -> Call:
    return Call(load("monai.visualize.gradient_based:_AutoGradReLU").apply, [normal(3, 4)], options={
        "intended": "guided backpropagation", "skip": ["upstream gradient"]})  # fmt: skip


def _ternary(name: str, bits: int) -> Call:
    function = load(_AO + f"prototype.paretoq.models.utils_quant:{name}").apply
    return Call(lambda x, alpha: function(x, alpha, bits, False), [normal(3, 4), uniform(3, 1)],
                options={"intended": "learned step size"})  # fmt: skip


def _supermask() -> Call:
    function = load(_AO + "sparsity.supermask:GetSubnet").apply
    return Call(lambda s: function(s, torch.zeros_like(s), torch.ones_like(s), 0.5), [uniform(3, 4)],
                options=_THROUGH)  # fmt: skip


CASES = [
    _through("brevitas", "RoundSteFn", _BREVITAS + "RoundSteFn", "round"),
    _through("brevitas", "CeilSteFn", _BREVITAS + "CeilSteFn", "ceil"),
    _through("brevitas", "FloorSteFn", _BREVITAS + "FloorSteFn", "floor"),
    _through("brevitas", "RoundToZeroSteFn", _BREVITAS + "RoundToZeroSteFn", "rounding to zero"),
    _through("brevitas", "DPURoundSteFn", _BREVITAS + "DPURoundSteFn", "rounding"),
    _through("brevitas", "BinarySignSteFn", _BREVITAS + "BinarySignSteFn", "the sign"),
    _through("brevitas", "TernarySignSteFn", _BREVITAS + "TernarySignSteFn", "the sign"),
    _through("brevitas", "ScalarClampSteFn", _BREVITAS + "ScalarClampSteFn", "clamping", -0.5, 0.5),
    _through("brevitas", "ScalarClampMinSteFn", _BREVITAS + "ScalarClampMinSteFn", "clamping from below", -0.5),
    Case("brevitas", "TensorClampSteFn", Expect.INTENDED, "passes the gradient through clamping",
         lambda: _clamp("TensorClampSteFn")),
    Case("brevitas", "InplaceTensorClampSteFn", Expect.INTENDED,
         "passes the gradient through clamping; writes into its input, as its name says",
         lambda: _clamp("InplaceTensorClampSteFn", "mutation")),
    Case("brevitas", "AbsBinarySignGradFn", Expect.RIGHT, "absolute value with slope 1 at 0",
         lambda: Call(load(_BREVITAS + "AbsBinarySignGradFn").apply, [normal(3, 4)], torch.abs)),
    _through("torchao", "_Round", _AO + "quantization.quant_primitives:_Round", "round"),
    _through("torchao", "RoundStraightThrough", _AO + "prototype.quantization.module_swap.quantizers:"
             "RoundStraightThrough", "round"),
    Case("torchao", "GetSubnet", Expect.INTENDED, "passes the gradient through a mask", _supermask),
    Case("torchao", "ApplyMask", Expect.INTENDED, "passes the gradient past the mask, to weight and scores alike",
         lambda: Call(load(_AO + "sparsity.supermask:ApplyMask").apply, [normal(3, 4), normal(3, 4)],
                      options=_THROUGH)),
    Case("torchao", "LsqBinaryTernaryExtension", Expect.INTENDED, "a learned step size",
         lambda: _ternary("LsqBinaryTernaryExtension", 4)),
    Case("torchao", "StretchedElasticQuant", Expect.INTENDED, "a learned step size",
         lambda: _ternary("StretchedElasticQuant", 4)),
    _through("transformers", "floor_ste", _IBERT + "floor_ste", "floor"),
    _through("transformers", "round_ste", _IBERT + "round_ste", "round"),
    Case("transformers", "SymmetricQuantFunction", Expect.INTENDED, "passes the gradient through a quantiser",
         _symmetric),
    _through("transformers", "WeightQuant", _BITNET + "WeightQuant", "a ternary quantiser"),
    _through("transformers", "ActQuant", _BITNET + "ActQuant", "an 8-bit quantiser"),
    Case("transformers", "PhimoeMultiplier", Expect.INTENDED, "an estimator of the gradient of sampled experts",
         _multiplier),
    Case("transformers", "_InputOnlyGrad", Expect.RIGHT, "gradients of inputs alone, never of parameters",
         _input_only),
    Case("monai", "_AutoGradReLU", Expect.INTENDED, "guided backpropagation, not linear in the upstream gradient",
         _guided),
    Case("pytorch-revgrad", "RevGrad", Expect.INTENDED, "reverses the gradient",
         lambda: _reversal("pytorch_revgrad.functional:RevGrad", torch.tensor(1.0))),
    Case("pytorch-adapt", "_GradientReversal", Expect.INTENDED, "reverses the gradient",
         lambda: _reversal("pytorch_adapt.layers.gradient_reversal:_GradientReversal", torch.tensor(1.0))),
    Case("dalib", "GradientReverseFunction", Expect.INTENDED, "reverses the gradient",
         lambda: _reversal("dalib.modules.grl:GradientReverseFunction", 1.0)),
    Case("torchaudio", "GradMultiply", Expect.INTENDED, "scales the gradient of an identity",
         lambda: Call(lambda x: load("torchaudio.models.wav2vec2.components:GradMultiply").apply(x, 0.1),
                      [normal(3, 4)], options={"intended": "scaled gradient"})),
    Case("megatron-core", "MoEAuxLossAutoScaler", Expect.INTENDED, "an auxiliary loss gets a constant gradient",
         lambda: _scaler("megatron.core.transformer.moe.moe_utils:MoEAuxLossAutoScaler")),
    Case("megatron-core", "MTPLossAutoScaler", Expect.INTENDED, "an auxiliary loss gets a constant gradient",
         lambda: _scaler("megatron.core.transformer.multi_token_prediction:MTPLossAutoScaler")),
]  # fmt: skip
