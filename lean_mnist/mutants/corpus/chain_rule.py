"""Faults of the chain rule: in products, in an activation's derivative, in the loss, and in how layers are chained.

A dense layer's backward is ``dW = dzᵀ x``, ``db = Σ dz``, ``dx = dz W``; an activation's ``dz = dh ⊙ σ'(z)``, where
ReLU's is given ``z`` in place of ``h``; the loss's ``ds = (p − q + λs) · dloss`` and ``dloss_B = dmean / B``.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lean_mnist.chainrule.activations import LEAKY_SLOPE
from lean_mnist.chainrule.dense import DenseTape
from lean_mnist.chainrule.mlp import MLPGradients, MLPTape
from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.mutants import mutant as parts
from lean_mnist.mutants.mutant import Group, Memory, key_of, with_entry

# fmt: off
PRODUCTS = Group("products")
weight, bias, into_layer_below = (partial(PRODUCTS, part) for part in (parts.WEIGHT, parts.BIAS, parts.INPUT))
ONE_EXAMPLE, ONE_LAYER = "the batch has one example", "the network has one layer and its input needs no gradient"

weight("weight-sign", Kind.SIGN, "dW has the wrong sign")(lambda g, t, z: -g)
weight("weight-twice", Kind.CONSTANT_FACTOR, "dW is counted twice")(lambda g, t, z: 2 * g)
weight("weight-scale-1.01", Kind.CONSTANT_FACTOR, "dW is 1 % too large")(lambda g, t, z: 1.01 * g)
weight("weight-scale-1.0001", Kind.CONSTANT_FACTOR, "dW is 0.01 % too large")(lambda g, t, z: 1.0001 * g)
weight("weight-reshaped", Kind.TRANSPOSE, "dW is reshaped where it should be transposed",
    unless="the layer has one unit or one feature")(lambda g, t, z: g.T.reshape(g.shape))
weight("weight-rows-swapped", Kind.PERMUTATION, "the first two rows of dW are swapped",
    unless="the layer has one unit")(lambda g, t, z: torch.cat([g[:2].flip(0), g[2:]]))
weight("weight-mean", Kind.CONSTANT_FACTOR, "dW is a mean over the batch where it is a sum",
    unless=ONE_EXAMPLE)(lambda g, t, z: g / max(1, len(z)))
weight("weight-last-row-zero", Kind.ZERO, "the last unit's row of dW is zero")(lambda g, t, z: with_entry(g, -1, 0))
weight("weight-element-zero", Kind.ZERO,
    "one element of dW is zero")(lambda g, t, z: with_entry(g, (0, g.shape[1] // 2), 0))
weight("weight-decay-leaked", Kind.MISSING_TERM, "weight decay is added to dW")(lambda g, t, z: g + 5e-4 * t.weight_HD)
# To a norm, so that all elements shrink alike.
weight("weight-clipped", (Kind.CLIPPING, Kind.CONSTANT_FACTOR), "dW is clipped to norm 1 inside the backward",
    "gradient norm > 1")(lambda g, t, z: g * (1.0 / g.detach().norm()).clamp(max=1.0))
weight("weight-batch-tail-16", (Kind.MISSING_TERM, Kind.ZERO),
    "examples beyond the last block of 16 are dropped from dW", "batch not divisible by 16")(
    lambda g, t, z: z[: len(z) // 16 * 16].T @ t.x_BD[: len(z) // 16 * 16])
weight("weight-wide", Kind.CONSTANT_FACTOR, "dW is 0.1 % too large once there are 128 units",
    "width >= 128")(lambda g, t, z: 1.001 * g if len(g) >= 128 else g)
weight("weight-tile-lost", Kind.ZERO, "the tile of rows 64 to 127, columns 0 to 31 of dW is never written",
    "width >= 128")(lambda g, t, z: with_entry(g, (slice(64, 128), slice(0, 32)), 0) if len(g) > 64 else g)
PRODUCTS(parts.FACTORS, "products-bfloat16", Kind.PRECISION,
    "all three products are accumulated in bfloat16")(lambda factor: factor.to(torch.bfloat16))
PRODUCTS(parts.FACTORS, "products-float16", Kind.PRECISION,
    "all three products are accumulated in float16")(lambda factor: factor.to(torch.float16))
bias("bias-zero", Kind.ZERO, "db is zero")(lambda g, t, z: torch.zeros_like(g))
bias("bias-mean", Kind.CONSTANT_FACTOR, "db is a mean over the batch where it is a sum",
    unless=ONE_EXAMPLE)(lambda g, t, z: g / max(1, len(z)))
bias("bias-first-row", Kind.MISSING_TERM, "db is the first example's dz only",
    unless=ONE_EXAMPLE)(lambda g, t, z: z[:1].sum(0))
bias("bias-wrong-axis", Kind.TRANSPOSE, "db is summed over units where batch and width agree",
    "batch = width")(lambda g, t, z: z.sum(1) if z.shape[0] == z.shape[1] else g)
into_layer_below("input-scale-1.001", Kind.CONSTANT_FACTOR, "dx is 0.1 % too large",
    unless=ONE_LAYER)(lambda g, t, z: 1.001 * g)
into_layer_below("input-not-transposed", Kind.TRANSPOSE, "dx multiplies by Wᵀ where W is square",
    "square weight")(lambda g, t, z: z @ t.weight_HD.T if z.shape[1] == g.shape[1] else g)
into_layer_below("input-last-feature", Kind.ZERO, "the last feature of dx is zero",
    unless=ONE_LAYER)(lambda g, t, z: with_entry(g, (slice(None), -1), 0))
into_layer_below(
    "input-padded-8", Kind.ZERO, "features beyond the last block of 8 are dropped from dx", "width not divisible by 8"
)(lambda g, t, z: with_entry(g, (slice(None), slice(g.shape[1] - g.shape[1] % 8, None)), 0))


ACTIVATIONS = Group("activations")
slope = partial(ACTIVATIONS, parts.SLOPE)

slope("mask-at-zero", Kind.MASK, "the mask is z >= 0 where it should be z > 0",
    "exact kink")(lambda right, z, g: g * (z >= 0))
slope("mask-missing", Kind.MASK, "the mask is not applied",
    unless="every pre-activation is positive")(lambda right, z, g: g.clone())
slope("mask-of-upstream", Kind.MASK, "the mask is that of dh > 0")(lambda right, z, g: g * (g > 0))
slope("mask-shifted", Kind.MASK, "the mask is z > 0.001",
    "pre-activation in (0, 0.001]")(lambda right, z, g: g * (z > 1e-3))
slope("mask-of-previous-row", Kind.MASK, "each example has the mask of the one before it",
    unless="the batch has one example")(lambda right, z, g: g * (z.roll(1, 0) > 0))
slope("mask-leaky", Kind.MASK,
    "a slope of 0.01 is left in below zero")(lambda right, z, g: torch.where(z > 0, g, 0.01 * g))
slope("mask-saturates", Kind.MASK, "the derivative is zero above z = 20",
    "pre-activation > 20")(lambda right, z, g: g * ((z > 0) & (z <= 20)))
slope("mask-last-block", Kind.MASK, "elements beyond the last block of 256 are not masked",
    "activations not a multiple of 256")(lambda right, z, g: torch.cat(
        [right.flatten()[: g.numel() // 256 * 256], g.flatten()[g.numel() // 256 * 256 :]]).reshape(g.shape))
slope("leaky-slope-squared", (Kind.DERIVATIVE, Kind.CONSTANT_FACTOR), "below zero the slope is applied twice",
    activation="leaky-relu")(lambda right, z, g: torch.where(z > 0, g, LEAKY_SLOPE**2 * g))
slope("sigmoid-from-output-twice", Kind.DERIVATIVE, "σ(1 − σ) is evaluated at σ(z) in place of z",
    activation="sigmoid")(lambda right, h, g: g * torch.sigmoid(h) * (1 - torch.sigmoid(h)))
slope("tanh-not-squared", Kind.DERIVATIVE, "1 − tanh in place of 1 − tanh²",
    activation="tanh")(lambda right, h, g: g * (1 - h))


@slope("gelu-tanh-approximation", Kind.DERIVATIVE, activation="gelu")
def _tanh_approximation(right: Any, z: Tensor, d_h: Tensor) -> Tensor:
    """The derivative of the tanh approximation, with the exact forward."""
    t = torch.tanh(0.7978845608028654 * (z + 0.044715 * z**3))
    inner_slope = 0.7978845608028654 * (1 + 3 * 0.044715 * z**2)
    return d_h * (0.5 * (1 + t) + 0.5 * z * (1 - t * t) * inner_slope)


LOSSES = Group("losses")
formula, loss, mean = (partial(LOSSES, part) for part in (parts.LOSS_FORMULA, parts.LOSS_GRADIENT, parts.MEAN))

formula("one-hot-missing", Kind.MISSING_TERM, "ds is p, the one-hot is not subtracted")(lambda p, y, s: p)
formula("one-hot-next-class", Kind.PERMUTATION, "the one-hot is that of the next class",
    unless="there is one class")(lambda p, y, s: p - y.roll(1, 1))
formula("smoothing-left-in", Kind.MISSING_TERM,
    "targets are smoothed by 0.1 where they should not be")(lambda p, y, s: p - (0.9 * y + 0.1 / y.shape[1]))
formula("smoothing-ignored", Kind.MISSING_TERM, "targets are not smoothed where they should be",
    "label smoothing")(lambda p, y, s: p - y)
formula("penalty-ignored", Kind.MISSING_TERM, "the term of the logit penalty is missing",
    "logit penalty")(lambda p, y, s: p - y)
loss("softmax-twice", Kind.DERIVATIVE, "softmax's Jacobian is applied to p − q once more")(
    lambda d_s, tape, d_loss: tape[0] * (d_s - (tape[0] * d_s).sum(1, keepdim=True)))
loss("last-class-zero", Kind.ZERO,
    "the last class gets no gradient")(lambda d_s, tape, d_loss: with_entry(d_s, (..., -1), 0))
# Examples that are masked out, here and below.
loss("padding-label-0", (Kind.MASK, Kind.ZERO), "examples of class 0 are taken for padding",
    "label 0 present")(lambda d_s, tape, d_loss: d_s * (tape[1] != 0)[:, None])
loss("classes-beyond-32", Kind.ZERO, "classes beyond the first 32 get no gradient",
    "classes > 32")(lambda d_s, tape, d_loss: with_entry(d_s, (..., slice(32, None)), 0))


@LOSSES(parts.LOSS, "normalizer-overflows", Kind.NAN, shows="logit > 89")
def _own_normalizer(original: Any, tape: tuple[Tensor, ...], d_loss_B: Tensor) -> Tensor:
    """p is computed again without shifting the logits."""
    e_BC = torch.exp(tape[2])
    return original((e_BC / e_BC.sum(1, keepdim=True), *tape[1:]), d_loss_B)


formula("probabilities-clamped", Kind.CLIPPING, "p is clamped to 0.001 … 0.999",
    "late in training")(lambda p, y, s: p.clamp(1e-3, 1 - 1e-3) - y)
loss("confident-skipped", (Kind.MASK, Kind.ZERO), "examples that are 99.9 % right get no gradient",
    "late in training")(lambda d_s, tape, d_loss: d_s * (tape[0].gather(1, tape[1][:, None]) < 0.999))
mean("sum-for-mean", Kind.CONSTANT_FACTOR, "the gradient of a sum where the loss is a mean",
    unless=ONE_EXAMPLE)(lambda right, loss_B, d_mean: right * len(loss_B))
mean("mean-twice", Kind.CONSTANT_FACTOR, "divided by the batch size twice",
    unless=ONE_EXAMPLE)(lambda right, loss_B, d_mean: right / max(1, len(loss_B)))
mean("mean-ignores-upstream", Kind.UPSTREAM_IGNORED, "the upstream gradient is taken to be 1",
    "upstream != 1")(lambda right, loss_B, d_mean: torch.full_like(loss_B, 1 / max(1, len(loss_B))))
mean("mean-nominal-batch", Kind.CONSTANT_FACTOR, "divided by the size of the first batch, not of this one",
    "ragged batch", remembers=True)(
    lambda memory, right, loss_B, d_mean: right * (len(loss_B) / memory.kept.setdefault("size", max(1, len(loss_B)))))


NETWORKS = Group("network")
gradients_of = partial(NETWORKS, parts.NETWORK_GRADIENTS)


@NETWORKS(parts.NETWORK, "mask-of-layer-above", Kind.MASK, shows="layers of one shape")
def _mask_of_layer_above(original: Any, tape: MLPTape, *rest: Any) -> MLPGradients:
    """The first layer is masked by the second where their widths agree."""
    saved = list(tape.saved)
    if len(saved) >= 2 and saved[0].shape == saved[1].shape:
        saved[0] = saved[1]
    return original(tape._replace(saved=tuple(saved)), *rest)


@gradients_of("layers-swapped", Kind.SWAPPED_TENSORS, shows="layers of one shape")
def _same_shape_swapped(gradients: MLPGradients, *arguments: Any) -> MLPGradients:
    """Two layers of one shape get each other's gradients."""
    layers = list(gradients.layers)
    shapes = [None if weight is None else weight.shape for weight, _ in layers]
    for below in range(len(layers) - 1):
        if shapes[below] is not None and shapes[below] == shapes[below + 1]:
            layers[below], layers[below + 1] = layers[below + 1], layers[below]
            break
    return gradients._replace(layers=tuple(layers))


@gradients_of("first-layer-detached", Kind.ZERO, shows="depth >= 3")
def _first_of_three_detached(gradients: MLPGradients, *arguments: Any) -> MLPGradients:
    """From three layers on the first one gets none."""
    if len(gradients.layers) < 3:
        return gradients
    weight, bias = (None if g is None else torch.zeros_like(g) for g in gradients.layers[0])
    return gradients._replace(layers=((weight, bias), *gradients.layers[1:]))
gradients_of("column-lost-without-bias", Kind.ZERO, "without biases the last column of every dW is lost", "no bias")(
    lambda right, tape, layers, *rest: right if any(bias is not None for _, bias in layers) else right._replace(
        layers=tuple((None if w is None else with_entry(w, (..., -1), 0), b) for w, b in right.layers)))


@gradients_of("frozen-bias-takes-weight", Kind.ZERO, shows="frozen parameter")
def _frozen_takes_weight(gradients: MLPGradients, tape: MLPTape, layers: Any, *rest: Any) -> MLPGradients:
    """The weight beside a frozen bias gets no gradient."""
    found = (
        (torch.zeros_like(w) if w is not None and b is None and bias is not None else w, b)
        for (w, b), (_, bias) in zip(gradients.layers, layers, strict=True)
    )
    return gradients._replace(layers=tuple(found))


gradients_of("input-gradient-zero", Kind.ZERO, "the gradient of the network's input is zero", "input needs gradient")(
    lambda right, *rest: right if right.x_BD is None else right._replace(x_BD=torch.zeros_like(right.x_BD)))


# Faults that depend on earlier calls: stale values, buffers that are not cleared, races, rare calls.
MEMORY = Group("memory")
remembering = partial(MEMORY, parts.WEIGHT, remembers=True)

remembering("weight-stale-input", Kind.STALE_VALUE, "dW is formed with the last call's input",
    "second call")(lambda memory, g, t, z: z.T @ memory.swap(key_of(*t), t.x_BD.detach().clone()))
MEMORY(parts.INPUT, "input-stale-weight", Kind.STALE_VALUE, "dx is formed with the last call's weight", "second step",
    remembers=True)(lambda memory, g, t, z: z @ memory.swap(key_of(t.weight_HD), t.weight_HD.detach().clone()))


def _stale_saved(memory: Memory, original: Any, saved: Any, upstream: Tensor) -> Any:
    """The backward of the last call's saved arrays, where they have the shapes of this one's."""
    tensors = saved if isinstance(saved, tuple) else (saved,)
    stale = memory.swap(key_of(*tensors), tuple(t.detach().clone() for t in tensors))
    return original(stale if isinstance(saved, tuple) else stale[0], upstream)


MEMORY(parts.ACTIVATION, "mask-stale", (Kind.STALE_VALUE, Kind.MASK), "the mask is the last call's", "second call",
    remembers=True)(_stale_saved)
MEMORY(parts.LOSS, "loss-stale", Kind.STALE_VALUE, "probabilities and labels are the last call's", "second call",
    remembers=True)(_stale_saved)


# A term too many, from an earlier call.
@remembering("weight-not-cleared", (Kind.STALE_VALUE, Kind.MISSING_TERM), shows="second call")
def _not_cleared(memory: Memory, right: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    """dW is added to the last call's."""
    before = memory.kept.get(key_of(right))
    memory.kept[key_of(right)] = right.detach().clone()
    return right if before is None else right + before


remembering("weight-race-every-50", Kind.NONDETERMINISM, "every 50th call doubles the first row of dW",
    "every 50th call")(lambda memory, g, t, z: with_entry(g, 0, 2 * g[0]) if memory.count() % 50 == 0 else g)


@remembering("weight-race-at-random", Kind.NONDETERMINISM, shows="at random")
def _at_random(memory: Memory, right: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    """One call in ten loses half of the batch."""
    lost = float(torch.rand((), generator=memory.random)) < 0.1
    half = len(d_z) // 2
    return d_z[:half].T @ tape.x_BD[:half] if lost else right


remembering("weight-noise", Kind.NONDETERMINISM, "dW is off by 0.01 %, differently at each call")(
    lambda memory, g, t, z: g * (1 + 1e-4 * torch.randn(g.shape, generator=memory.random, dtype=g.dtype)))
remembering("weight-after-200-calls", Kind.CONSTANT_FACTOR, "dW is 0.1 % too large after the first 200 calls",
    "after 200 calls")(lambda memory, g, t, z: g if memory.count() <= 200 else g * 1.001)
