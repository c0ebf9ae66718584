"""Faults in a dense layer's backward: ``dW = dzᵀ x``, ``db = Σ dz``, ``dx = dz W``."""

from functools import partial

import torch
from torch import Tensor

from lean_mnist.chainrule.dense import DenseTape
from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.mutants.mutant import BIAS, FACTORS, INPUT, WEIGHT, Group, with_entry

GROUP = Group("products")
weight, bias, into_layer_below = (partial(GROUP, part) for part in (WEIGHT, BIAS, INPUT))
ONE_EXAMPLE, ONE_LAYER = "the batch has one example", "the network has one layer and its input needs no gradient"

weight("weight-sign", Kind.SIGN, "dW has the wrong sign")(lambda g, t, z: -g)
weight("weight-twice", Kind.CONSTANT_FACTOR, "dW is counted twice")(lambda g, t, z: 2 * g)
weight("weight-scale-1.01", Kind.CONSTANT_FACTOR, "dW is 1 % too large")(lambda g, t, z: 1.01 * g)
weight("weight-scale-1.0001", Kind.CONSTANT_FACTOR, "dW is 0.01 % too large")(lambda g, t, z: 1.0001 * g)
weight(
    "weight-reshaped",
    Kind.TRANSPOSE,
    "dW is reshaped where it should be transposed",
    unless="the layer has one unit or one feature",
)(lambda g, t, z: g.T.reshape(g.shape))
weight(
    "weight-rows-swapped", Kind.PERMUTATION, "the first two rows of dW are swapped", unless="the layer has one unit"
)(lambda g, t, z: torch.cat([g[:2].flip(0), g[2:]]))
weight("weight-mean", Kind.CONSTANT_FACTOR, "dW is a mean over the batch where it is a sum", unless=ONE_EXAMPLE)(
    lambda g, t, z: g / max(1, len(z))
)
weight("weight-last-row-zero", Kind.ZERO, "the last unit's row of dW is zero")(lambda g, t, z: with_entry(g, -1, 0))
weight("weight-element-zero", Kind.ZERO, "one element of dW is zero")(
    lambda g, t, z: with_entry(g, (0, g.shape[1] // 2), 0)
)
weight("weight-decay-leaked", Kind.MISSING_TERM, "weight decay is added to dW")(lambda g, t, z: g + 5e-4 * t.weight_HD)
# To a norm, so that all elements shrink alike.
weight(
    "weight-clipped",
    (Kind.CLIPPING, Kind.CONSTANT_FACTOR),
    "dW is clipped to norm 1 inside the backward",
    "gradient norm > 1",
)(lambda g, t, z: g * (1.0 / g.detach().norm()).clamp(max=1.0))


@weight("weight-batch-tail-16", (Kind.MISSING_TERM, Kind.ZERO), shows="batch not divisible by 16")
def _tail_dropped(d_weight: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    """Examples beyond the last block of 16 are dropped from dW."""
    whole = len(d_z) - len(d_z) % 16
    return d_z[:whole].T @ tape.x_BD[:whole]


weight("weight-wide", Kind.CONSTANT_FACTOR, "dW is 0.1 % too large once there are 128 units", "width >= 128")(
    lambda g, t, z: 1.001 * g if len(g) >= 128 else g
)
weight(
    "weight-tile-lost", Kind.ZERO, "the tile of rows 64 to 127, columns 0 to 31 of dW is never written", "width >= 128"
)(lambda g, t, z: with_entry(g, (slice(64, 128), slice(0, 32)), 0) if len(g) > 64 else g)
GROUP(FACTORS, "products-bfloat16", Kind.PRECISION, "all three products are accumulated in bfloat16")(
    lambda factor: factor.to(torch.bfloat16)
)
GROUP(FACTORS, "products-float16", Kind.PRECISION, "all three products are accumulated in float16")(
    lambda factor: factor.to(torch.float16)
)
bias("bias-zero", Kind.ZERO, "db is zero")(lambda g, t, z: torch.zeros_like(g))
bias("bias-mean", Kind.CONSTANT_FACTOR, "db is a mean over the batch where it is a sum", unless=ONE_EXAMPLE)(
    lambda g, t, z: g / max(1, len(z))
)
bias("bias-first-row", Kind.MISSING_TERM, "db is the first example's dz only", unless=ONE_EXAMPLE)(
    lambda g, t, z: z[:1].sum(0)
)
bias("bias-wrong-axis", Kind.TRANSPOSE, "db is summed over units where batch and width agree", "batch = width")(
    lambda g, t, z: z.sum(1) if z.shape[0] == z.shape[1] else g
)
into_layer_below("input-scale-1.001", Kind.CONSTANT_FACTOR, "dx is 0.1 % too large", unless=ONE_LAYER)(
    lambda g, t, z: 1.001 * g
)
into_layer_below("input-not-transposed", Kind.TRANSPOSE, "dx multiplies by Wᵀ where W is square", "square weight")(
    lambda g, t, z: z @ t.weight_HD.T if z.shape[1] == g.shape[1] else g
)
into_layer_below("input-last-feature", Kind.ZERO, "the last feature of dx is zero", unless=ONE_LAYER)(
    lambda g, t, z: with_entry(g, (slice(None), -1), 0)
)
into_layer_below(
    "input-padded-8", Kind.ZERO, "features beyond the last block of 8 are dropped from dx", "width not divisible by 8"
)(lambda g, t, z: with_entry(g, (slice(None), slice(g.shape[1] - g.shape[1] % 8, None)), 0))
