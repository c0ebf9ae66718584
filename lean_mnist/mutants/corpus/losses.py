"""Faults in the gradient of the loss: ``ds = (p − q + λs) · dloss`` and ``dloss_B = dmean / B``."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.mutants.mutant import LOSS, LOSS_FORMULA, MEAN, Group, Memory

GROUP = Group("losses")
formula, loss, mean = (partial(GROUP, part) for part in (LOSS_FORMULA, LOSS, MEAN))
ONE_EXAMPLE = "the batch has one example"

formula("one-hot-missing", Kind.MISSING_TERM, "ds is p, the one-hot is not subtracted")(lambda p, y, s: p)
formula(
    "one-hot-next-class",
    Kind.PERMUTATION,
    "the one-hot is that of the next class",
    equivalent_when="there is one class",
)(lambda p, y, s: p - y.roll(1, 1))
formula("smoothing-left-in", Kind.MISSING_TERM, "targets are smoothed by 0.1 where they should not be")(
    lambda p, y, s: p - (0.9 * y + 0.1 / y.shape[1])
)
formula("smoothing-ignored", Kind.MISSING_TERM, "targets are not smoothed where they should be", "label smoothing")(
    lambda p, y, s: p - y
)
formula("penalty-ignored", Kind.MISSING_TERM, "the term of the logit penalty is missing", "logit penalty")(
    lambda p, y, s: p - y
)


@loss("softmax-twice", Kind.DERIVATIVE)
def _jacobian_again(original: Any, tape: tuple[Tensor, ...], d_loss_B: Tensor) -> Tensor:
    """Softmax's Jacobian is applied to p − q once more."""
    p, d_s = tape[0], original(tape, d_loss_B)
    return p * (d_s - (p * d_s).sum(1, keepdim=True))


@loss("last-class-zero", Kind.ZERO)
def _last_class_zero(original: Any, tape: tuple[Tensor, ...], d_loss_B: Tensor) -> Tensor:
    """The last class gets no gradient."""
    d_s = original(tape, d_loss_B)
    return torch.cat([d_s[:, :-1], 0 * d_s[:, -1:]], 1)


# Examples that are masked out, here and below.
loss("padding-label-0", (Kind.MASK, Kind.ZERO), "examples of class 0 are taken for padding", "label 0 present")(
    lambda original, tape, d_loss: original(tape, d_loss) * (tape[1] != 0)[:, None]
)


@loss("classes-beyond-32", Kind.ZERO, shows="classes > 32")
def _first_32_classes(original: Any, tape: tuple[Tensor, ...], d_loss_B: Tensor) -> Tensor:
    """Classes beyond the first 32 get no gradient."""
    d_s = original(tape, d_loss_B)
    return torch.cat([d_s[:, :32], 0 * d_s[:, 32:]], 1)


@loss("normalizer-overflows", Kind.NAN, shows="logit > 89")
def _own_normalizer(original: Any, tape: tuple[Tensor, ...], d_loss_B: Tensor) -> Tensor:
    """p is computed again without shifting the logits."""
    e_BC = torch.exp(tape[2])
    return original((e_BC / e_BC.sum(1, keepdim=True), *tape[1:]), d_loss_B)


formula("probabilities-clamped", Kind.CLIPPING, "p is clamped to 0.001 … 0.999", "late in training")(
    lambda p, y, s: p.clamp(1e-3, 1 - 1e-3) - y
)
loss("confident-skipped", (Kind.MASK, Kind.ZERO), "examples that are 99.9 % right get no gradient", "late in training")(
    lambda original, tape, d_loss: original(tape, d_loss) * (tape[0].gather(1, tape[1][:, None]) < 0.999)
)
mean(
    "sum-for-mean", Kind.CONSTANT_FACTOR, "the gradient of a sum where the loss is a mean", equivalent_when=ONE_EXAMPLE
)(lambda original, loss_B, d_mean: original(loss_B, d_mean) * len(loss_B))
mean("mean-twice", Kind.CONSTANT_FACTOR, "divided by the batch size twice", equivalent_when=ONE_EXAMPLE)(
    lambda original, loss_B, d_mean: original(loss_B, d_mean) / max(1, len(loss_B))
)
mean("mean-ignores-upstream", Kind.UPSTREAM_IGNORED, "the upstream gradient is taken to be 1", "upstream != 1")(
    lambda original, loss_B, d_mean: original(loss_B, torch.ones_like(d_mean))
)


@mean("mean-nominal-batch", Kind.CONSTANT_FACTOR, shows="ragged batch", remembers=True)
def _nominal_batch(memory: Memory, original: Any, loss_B: Tensor, d_mean: Tensor) -> Tensor:
    """Divided by the size of the first batch, not of this one."""
    nominal = memory.kept.setdefault("size", len(loss_B))
    right: Tensor = original(loss_B, d_mean)
    return right * (len(loss_B) / max(1, nominal))
