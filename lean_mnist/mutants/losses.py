"""Faults in the gradient of the loss: ``ds = (p − q + λs) · dloss`` and ``dloss_B = dmean / B``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lean_mnist.mutants.mutant import Mutant, after, corpus

_losses = corpus("losses", "loss")
_mean = corpus("losses", "mean")


def _rule(formula: Any) -> Any:
    """The fault that returns ``formula(p, y, s) · dloss``, a column a class."""

    def fault(original: Any, tape: tuple[Tensor, ...], d_loss_B: Tensor) -> Tensor:
        p_BC, labels_B, s_BC = tape
        d_s_BC: Tensor = formula(p_BC, F.one_hot(labels_B, p_BC.shape[1]).to(p_BC.dtype), s_BC)
        return d_s_BC * d_loss_B[:, None]

    return fault


def _changed(change: Any) -> Any:
    """The fault that returns ``change(ds, p, y, s)`` of the right ``ds``."""
    return after(lambda d_s, tape, d_loss: change(d_s, *tape))


def _jacobian_again(d_s: Tensor, p: Tensor, y: Tensor, s: Tensor) -> Tensor:
    return p * (d_s - (p * d_s).sum(1, keepdim=True))


def _own_normalizer(original: Any, tape: tuple[Tensor, ...], d_loss_B: Tensor) -> Tensor:
    e_BC = torch.exp(tape[2])
    return original((e_BC / e_BC.sum(1, keepdim=True), *tape[1:]), d_loss_B)


class _NominalBatch:
    """Divides by the size of the first batch it saw."""

    def __init__(self) -> None:
        self._size = 0

    def __call__(self, original: Any, loss_B: Tensor, d_mean: Tensor) -> Tensor:
        self._size = self._size or len(loss_B)
        right: Tensor = original(loss_B, d_mean)
        return right * (len(loss_B) / max(1, self._size))


MUTANTS: tuple[Mutant, ...] = (
    _losses("one-hot-missing", "ds is p, the one-hot is not subtracted", _rule(lambda p, y, s: p)),
    _losses(
        "one-hot-next-class",
        "the one-hot is that of the next class",
        _rule(lambda p, y, s: p - y.roll(1, 1)),
        equivalent_when="there is one class",
    ),
    _losses(
        "smoothing-left-in",
        "targets are smoothed by 0.1 where they should not be",
        _rule(lambda p, y, s: p - (0.9 * y + 0.1 / y.shape[1])),
    ),
    _losses(
        "smoothing-ignored",
        "targets are not smoothed where they should be",
        _rule(lambda p, y, s: p - y),
        "label smoothing",
    ),
    _losses(
        "penalty-ignored", "the term of the logit penalty is missing", _rule(lambda p, y, s: p - y), "logit penalty"
    ),
    _losses("softmax-twice", "softmax's Jacobian is applied to p − q once more", _changed(_jacobian_again)),
    _losses(
        "last-class-zero",
        "the last class gets no gradient",
        _changed(lambda d, p, y, s: torch.cat([d[:, :-1], 0 * d[:, -1:]], 1)),
    ),
    _losses(
        "padding-label-0",
        "examples of class 0 are taken for padding",
        _changed(lambda d, p, y, s: d * (y != 0)[:, None]),
        "label 0 present",
    ),
    _losses(
        "classes-beyond-32",
        "classes beyond the first 32 get no gradient",
        _changed(lambda d, p, y, s: torch.cat([d[:, :32], 0 * d[:, 32:]], 1)),
        "classes > 32",
    ),
    _losses("normalizer-overflows", "p is computed again without shifting the logits", _own_normalizer, "logit > 89"),
    _losses(
        "probabilities-clamped",
        "p is clamped to 0.001 … 0.999",
        _rule(lambda p, y, s: p.clamp(1e-3, 1 - 1e-3) - y),
        "late in training",
    ),
    _losses(
        "confident-skipped",
        "examples that are 99.9 % right get no gradient",
        _changed(lambda d, p, y, s: d * (p.gather(1, y[:, None]) < 0.999)),
        "late in training",
    ),
    _mean(
        "sum-for-mean",
        "the gradient of a sum where the loss is a mean",
        after(lambda d, loss_B, d_mean: d * len(loss_B)),
        equivalent_when="the batch has one example",
    ),
    _mean(
        "mean-twice",
        "divided by the batch size twice",
        after(lambda d, loss_B, d_mean: d / max(1, len(loss_B))),
        equivalent_when="the batch has one example",
    ),
    _mean(
        "mean-ignores-upstream",
        "the upstream gradient is taken to be 1",
        lambda original, loss_B, d_mean: original(loss_B, torch.ones_like(d_mean)),
        "upstream != 1",
    ),
    _mean(
        "mean-nominal-batch", "divided by the size of the first batch, not of this one", _NominalBatch, "ragged batch"
    ),
)
