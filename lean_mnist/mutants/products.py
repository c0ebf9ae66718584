"""Faults in a dense layer's backward: ``dW = dzᵀ x``, ``db = Σ dz``, ``dx = dz W``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lean_mnist.chainrule.dense import DenseGradients, DenseTape
from lean_mnist.mutants.mutant import Mutant, corpus, on_bias, on_input, on_weight, with_entry

_products = corpus("products", "dense")


def _swap_first_rows(d_weight: Tensor) -> Tensor:
    order = list(range(len(d_weight)))
    order[:2] = order[:2][::-1]
    return d_weight[order]


def _tail_dropped(block: int) -> Any:
    def change(d_weight: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
        whole = len(d_z) - len(d_z) % block
        return d_z[:whole].T @ tape.x_BD[:whole]

    return change


def _wrong_axis(d_bias: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    return d_z.sum(1) if d_z.shape[0] == d_z.shape[1] else d_bias


def _low_precision(dtype: torch.dtype) -> Any:
    def fault(original: Any, tape: DenseTape, d_z: Tensor, needs: tuple[bool, bool, bool]) -> DenseGradients:
        gradients = original(DenseTape(*(t.to(dtype) for t in tape)), d_z.to(dtype), needs)
        return DenseGradients(*(None if g is None else g.to(d_z.dtype) for g in gradients))

    return fault


def _tile_lost(d_weight: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    return with_entry(d_weight, (slice(64, 128), slice(0, 32)), 0) if d_weight.shape[0] > 64 else d_weight


def _clipped(d_weight: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    return d_weight * (1.0 / d_weight.detach().norm()).clamp(max=1.0)


MUTANTS: tuple[Mutant, ...] = (
    _products("weight-sign", "dW has the wrong sign", on_weight(lambda g, t, z: -g)),
    _products("weight-twice", "dW is counted twice", on_weight(lambda g, t, z: 2 * g)),
    _products("weight-scale-1.01", "dW is 1 % too large", on_weight(lambda g, t, z: 1.01 * g)),
    _products("weight-scale-1.0001", "dW is 0.01 % too large", on_weight(lambda g, t, z: 1.0001 * g)),
    _products(
        "weight-reshaped",
        "dW is reshaped where it should be transposed",
        on_weight(lambda g, t, z: g.T.reshape(g.shape)),
        equivalent_when="the layer has one unit or one feature",
    ),
    _products(
        "weight-rows-swapped",
        "the first two rows of dW are swapped",
        on_weight(lambda g, t, z: _swap_first_rows(g)),
        equivalent_when="the layer has one unit",
    ),
    _products(
        "weight-mean",
        "dW is a mean over the batch where it is a sum",
        on_weight(lambda g, t, z: g / max(1, len(z))),
        equivalent_when="the batch has one example",
    ),
    _products(
        "weight-last-row-zero", "the last unit's row of dW is zero", on_weight(lambda g, t, z: with_entry(g, -1, 0))
    ),
    _products(
        "weight-element-zero",
        "one element of dW is zero",
        on_weight(lambda g, t, z: with_entry(g, (0, g.shape[1] // 2), 0)),
    ),
    _products("weight-decay-leaked", "weight decay is added to dW", on_weight(lambda g, t, z: g + 5e-4 * t.weight_HD)),
    _products(
        "weight-clipped", "dW is clipped to norm 1 inside the backward", on_weight(_clipped), "gradient norm > 1"
    ),
    _products(
        "weight-batch-tail-16",
        "examples beyond the last block of 16 are dropped from dW",
        on_weight(_tail_dropped(16)),
        "batch not divisible by 16",
    ),
    _products(
        "weight-wide",
        "dW is 0.1 % too large once there are 128 units",
        on_weight(lambda g, t, z: 1.001 * g if len(g) >= 128 else g),
        "width >= 128",
    ),
    _products(
        "weight-tile-lost",
        "the tile of rows 64 to 127, columns 0 to 31 of dW is never written",
        on_weight(_tile_lost),
        "width >= 128",
    ),
    _products("products-bfloat16", "all three products are accumulated in bfloat16", _low_precision(torch.bfloat16)),
    _products("products-float16", "all three products are accumulated in float16", _low_precision(torch.float16)),
    _products("bias-zero", "db is zero", on_bias(lambda g, t, z: torch.zeros_like(g))),
    _products(
        "bias-mean",
        "db is a mean over the batch where it is a sum",
        on_bias(lambda g, t, z: g / max(1, len(z))),
        equivalent_when="the batch has one example",
    ),
    _products(
        "bias-first-row",
        "db is the first example's dz only",
        on_bias(lambda g, t, z: z[:1].sum(0)),
        equivalent_when="the batch has one example",
    ),
    _products(
        "bias-wrong-axis", "db is summed over units where batch and width agree", on_bias(_wrong_axis), "batch = width"
    ),
    _products(
        "input-scale-1.001",
        "dx is 0.1 % too large",
        on_input(lambda g, t, z: 1.001 * g),
        equivalent_when="the network has one layer and its input needs no gradient",
    ),
    _products(
        "input-not-transposed",
        "dx multiplies by Wᵀ where W is square",
        on_input(lambda g, t, z: z @ t.weight_HD.T if z.shape[1] == g.shape[1] else g),
        "square weight",
    ),
    _products(
        "input-last-feature",
        "the last feature of dx is zero",
        on_input(lambda g, t, z: with_entry(g, (slice(None), -1), 0)),
        equivalent_when="the network has one layer and its input needs no gradient",
    ),
    _products(
        "input-padded-8",
        "features beyond the last block of 8 are dropped from dx",
        on_input(lambda g, t, z: with_entry(g, (slice(None), slice(g.shape[1] - g.shape[1] % 8, None)), 0)),
        "width not divisible by 8",
    ),
)
