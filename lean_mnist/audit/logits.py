"""The loss of a batch and the gradient of its logits by formulas of their own: softmax cross-entropy of targets ``q``.

The loss is ``Σ (log Σ eˢ − Σ q s + λ/2 ‖s‖²) / N``, its gradient ``(softmax(s) − q + λs) / N``; ``q`` is the one-hot
label mixed with the uniform distribution, ``λ`` the logit penalty.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lean_mnist.audit.reference import NetworkLoss
from lean_mnist.nn.step import StepTape

Number = TypeVar("Number", float, Tensor)


class Arithmetic(NamedTuple):
    """The arithmetic in which an elementwise check is computed."""

    cast: Callable[[Tensor], Tensor]  # brings its operands there
    classes: int = 1  # dimension along which classes stand in a cast tensor of logits


class Expected(NamedTuple):
    """``scale · value`` is what an elementwise identity gives; its rounding is relative to ``scale · size``."""

    value: Tensor
    size: Tensor
    scale: float = 1.0


EXACT = Arithmetic(torch.Tensor.double)


class LogitsTerms(NamedTuple):
    """Terms of the gradient of a batch's logits ``s``, ``scale (p − q + λs)``, of one shape; scale is upstream / N."""

    p: Tensor  # softmax(s)
    log_p: Tensor
    q: Tensor  # target distribution
    s: Tensor  # logits
    penalty: float
    scale: float

    @classmethod
    def of(cls, rule: NetworkLoss, tape: StepTape, arithmetic: Arithmetic = EXACT) -> "LogitsTerms":
        """Terms of a batch's logits ``(B, C)``, in this arithmetic."""
        logits, labels_B = tape.pre_activations[-1], tape.labels_B
        s, dim = arithmetic.cast(logits), arithmetic.classes
        log_p = torch.log_softmax(s, dim)
        targets = target_distributions(rule.label_smoothing, logits.shape[1], s.dtype, s.device)
        q = targets.index_select(1 - dim, labels_B)
        return cls(log_p.exp(), log_p, q, s, rule.logit_penalty, tape.upstream / max(1, len(labels_B)))

    def gradient(self, p: Tensor | None = None, q: Tensor | None = None, s: Tensor | None = None) -> Tensor:
        """The gradient of the logits, with any of its terms replaced."""
        p, q, s = self.p if p is None else p, self.q if q is None else q, self.s if s is None else s
        return self.scale * (p - q + self.penalty * s)

    def expected(self) -> Expected:
        """The gradient of the logits; ``size`` is ``p (2 − log p) + q``, as p is off by ``|log p|`` units and more."""
        value = self.p - self.q
        size = torch.addcmul(torch.add(self.q, self.p, alpha=2), self.p, self.log_p, value=-1)
        if self.penalty:
            value = torch.add(value, self.s, alpha=self.penalty)
            size = torch.add(size, self.s.abs(), alpha=self.penalty)
        return Expected(value, size, self.scale)

    def likelihood(self) -> Tensor:
        """``Σ (q log p − λ/2 s²)``, minus the sum of the batch's losses; ``(1,)``."""
        found = torch.mv(self.log_p.reshape(1, -1), self.q.reshape(-1))
        return torch.sub(found, self.s.square().sum(), alpha=self.penalty / 2) if self.penalty else found


def loss_size(largest: Number, penalty: float) -> Number:
    """Magnitude that the rounding of a mean loss is relative to, from its largest logit, which is at least 1."""
    return 1 + largest + penalty * largest * largest


@functools.cache
def target_distributions(smoothing: float, classes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``(C, C)``: for each label the target, one-hot mixed with the uniform distribution; symmetric."""
    return torch.eye(classes, dtype=dtype, device=device) * (1 - smoothing) + smoothing / classes
