"""Calibration of a network's confidence, and its risk where it may decline to answer.

The *confidence* of a prediction is its softmax probability, ``max_k p_k``. Shapes: ``m`` examples, ``K`` bins.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BINS = 15


class Calibration(NamedTuple):
    """Examples sorted into K equal bins of confidence, ``((i − 1)/K, i/K]``."""

    examples: Tensor  # int64, (K,)
    correct: Tensor  # int64, (K,)
    confidence: Tensor  # float64, (K,): their mean, 0 where a bin is empty

    @property
    def error(self) -> float:
        """Expected calibration error: ``Σ_i n_i/m · |correct_i/n_i − confidence_i|``.

        Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks (ICML 2017), equation 3.
        """
        gaps = (self.correct - self.examples * self.confidence).abs()
        return float(gaps.sum() / self.examples.sum())


def calibration(confidences_m: Tensor, right_m: Tensor, bins: int = BINS) -> Calibration:
    """The calibration of predictions with ``confidences`` float64 (m,), of which those with ``right`` bool (m,) are."""
    index = (confidences_m * bins).ceil().long().sub(1).clamp(0, bins - 1)
    examples = torch.bincount(index, minlength=bins)
    sums = torch.bincount(index, weights=confidences_m, minlength=bins)
    return Calibration(examples, torch.bincount(index[right_m], minlength=bins), sums / examples.clamp_min(1))


def risk_by_coverage(confidences_m: Tensor, right_m: Tensor) -> tuple[Tensor, Tensor]:
    """Coverage ``n/m`` and the error rate among the n most confident predictions, float64 (m,), n = 1 … m.

    Equal confidences are answered together or not at all, so such predictions all have the risk of the last of them
    (El-Yaniv and Wiener, On the foundations of noise-free selective classification, JMLR 11, 2010).
    """
    order = confidences_m.argsort(descending=True, stable=True)
    sorted_confidences, wrong = confidences_m[order], (~right_m[order]).double()
    answered = torch.arange(1, len(order) + 1, dtype=torch.float64)
    risk = wrong.cumsum(0) / answered
    # For every n, the last one with the same confidence.
    last = torch.searchsorted(-sorted_confidences, -sorted_confidences, right=True) - 1
    return answered / len(order), risk[last]
