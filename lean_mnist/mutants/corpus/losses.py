"""Faults in the gradient of the loss: ``ds = (p − q + λs) · dloss`` and ``dloss_B = dmean / B``."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.mutants.mutant import LOSS, LOSS_FORMULA, LOSS_GRADIENT, MEAN, Group, with_entry

GROUP = Group("losses")
formula, loss, mean = (partial(GROUP, part) for part in (LOSS_FORMULA, LOSS_GRADIENT, MEAN))
ONE_EXAMPLE = "the batch has one example"

formula("one-hot-missing", Kind.MISSING_TERM, "ds is p, the one-hot is not subtracted")(lambda p, y, s: p)
formula("one-hot-next-class", Kind.PERMUTATION, "the one-hot is that of the next class", unless="there is one class")(
    lambda p, y, s: p - y.roll(1, 1)
)
formula("smoothing-left-in", Kind.MISSING_TERM, "targets are smoothed by 0.1 where they should not be")(
    lambda p, y, s: p - (0.9 * y + 0.1 / y.shape[1])
)
formula("smoothing-ignored", Kind.MISSING_TERM, "targets are not smoothed where they should be", "label smoothing")(
    lambda p, y, s: p - y
)
formula("penalty-ignored", Kind.MISSING_TERM, "the term of the logit penalty is missing", "logit penalty")(
    lambda p, y, s: p - y
)
loss("softmax-twice", Kind.DERIVATIVE, "softmax's Jacobian is applied to p − q once more")(
    lambda d_s, tape, d_loss: tape[0] * (d_s - (tape[0] * d_s).sum(1, keepdim=True))
)
loss("last-class-zero", Kind.ZERO, "the last class gets no gradient")(
    lambda d_s, tape, d_loss: with_entry(d_s, (..., -1), 0)
)
# Examples that are masked out, here and below.
loss("padding-label-0", (Kind.MASK, Kind.ZERO), "examples of class 0 are taken for padding", "label 0 present")(
    lambda d_s, tape, d_loss: d_s * (tape[1] != 0)[:, None]
)
loss("classes-beyond-32", Kind.ZERO, "classes beyond the first 32 get no gradient", "classes > 32")(
    lambda d_s, tape, d_loss: with_entry(d_s, (..., slice(32, None)), 0)
)


@GROUP(LOSS, "normalizer-overflows", Kind.NAN, shows="logit > 89")
def _own_normalizer(original: Any, tape: tuple[Tensor, ...], d_loss_B: Tensor) -> Tensor:
    """p is computed again without shifting the logits."""
    e_BC = torch.exp(tape[2])
    return original((e_BC / e_BC.sum(1, keepdim=True), *tape[1:]), d_loss_B)


formula("probabilities-clamped", Kind.CLIPPING, "p is clamped to 0.001 … 0.999", "late in training")(
    lambda p, y, s: p.clamp(1e-3, 1 - 1e-3) - y
)
loss("confident-skipped", (Kind.MASK, Kind.ZERO), "examples that are 99.9 % right get no gradient", "late in training")(
    lambda d_s, tape, d_loss: d_s * (tape[0].gather(1, tape[1][:, None]) < 0.999)
)
mean("sum-for-mean", Kind.CONSTANT_FACTOR, "the gradient of a sum where the loss is a mean", unless=ONE_EXAMPLE)(
    lambda right, loss_B, d_mean: right * len(loss_B)
)
mean("mean-twice", Kind.CONSTANT_FACTOR, "divided by the batch size twice", unless=ONE_EXAMPLE)(
    lambda right, loss_B, d_mean: right / max(1, len(loss_B))
)
mean("mean-ignores-upstream", Kind.UPSTREAM_IGNORED, "the upstream gradient is taken to be 1", "upstream != 1")(
    lambda right, loss_B, d_mean: torch.full_like(loss_B, 1 / max(1, len(loss_B)))
)
mean(
    "mean-nominal-batch",
    Kind.CONSTANT_FACTOR,
    "divided by the size of the first batch, not of this one",
    "ragged batch",
    remembers=True,
)(lambda memory, right, loss_B, d_mean: right * (len(loss_B) / memory.kept.setdefault("size", max(1, len(loss_B)))))
