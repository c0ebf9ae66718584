"""Evaluation of a network on a split: counts first, everything else derived from them; calibration of its confidence.

The *confidence* of a prediction is its softmax probability, ``max_k p_k``. Shapes: ``m`` examples, ``K`` bins.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lean_mnist.data.datasets import Split
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import HealthError
from lean_mnist.generalization.bounds import beta_quantile
from lean_mnist.nn import MLP, functional

BINS = 15
THRESHOLDS = 127  # as many as TensorBoard takes
_CHUNK = 5000  # examples a forward pass: enough for fast products, few enough for memory


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


@dataclass(frozen=True)
class Evaluation:
    """Counts, predictions and loss on a split; ``confusion[y][k]`` counts examples of class y that were called k."""

    loss: float  # mean cross-entropy, without smoothing or penalty
    confusion: Tensor  # int64, (C, C)
    predictions: Tensor  # int64, (m,)
    confidences: Tensor  # float64, (m,): the softmax probability of each prediction
    right: Tensor  # bool, (m,): whether the prediction is the label
    probabilities: Tensor | None = None  # float64, (m, C), of the softmax, where they were asked for

    @property
    def examples(self) -> int:
        """Number of examples, m."""
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        """Number of right predictions."""
        return int(self.confusion.diagonal().sum())

    @property
    def errors(self) -> int:
        """Number of wrong predictions."""
        return self.examples - self.correct

    @property
    def accuracy(self) -> float:
        """Share of right predictions."""
        return self.correct / self.examples

    @property
    def class_accuracy(self) -> list[float | None]:
        """Share of each class's examples that were called by its name; ``None`` for a class without examples."""
        hits, totals = self.confusion.diagonal().tolist(), self.confusion.sum(1).tolist()
        return [hit / total if total else None for hit, total in zip(hits, totals, strict=True)]

    def counts(self) -> dict[str, Any]:
        """Examples, errors and accuracy."""
        return {"examples": self.examples, "errors": self.errors, "accuracy": self.accuracy}

    @property
    def misread(self) -> Tensor:
        """Numbers of the examples with wrong predictions, the surest of these first."""
        wrong = (~self.right).nonzero().flatten()
        return wrong[self.confidences[wrong].argsort(descending=True, stable=True)]

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Clopper–Pearson interval of the accuracy."""
        return clopper_pearson(self.correct, self.examples)

    @property
    def calibration(self) -> Calibration:
        """Confidences against the share of right predictions."""
        return calibration(self.confidences, self.right)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = {**self.counts(), "accuracy_interval_95": list(self.interval), "loss": self.loss}
        values |= {"calibration_error": self.calibration.error, "class_accuracy": self.class_accuracy}
        return {**values, "confusion": self.confusion.tolist()}


@torch.no_grad()
def evaluate(model: MLP, split: Split, normalization: Normalization, *, with_probabilities: bool = False) -> Evaluation:
    """Loss, confusion and predictions of ``model`` on every example of ``split``; ties go to the smallest class.

    Raises ``HealthError`` if a logit is not finite: such a prediction would be an accident.
    """
    classes = model.sizes[-1]
    confusion = torch.zeros(classes * classes, dtype=torch.int64)
    loss, predictions, confidences, probabilities = 0.0, [], [], []
    for start in range(0, len(split), _CHUNK):
        images, labels = split.images[start : start + _CHUNK], split.labels[start : start + _CHUNK]
        logits = _logits(model, images, normalization)
        if not torch.isfinite(logits).all():
            raise HealthError(f"the network's outputs are not finite on examples {start} to {start + len(labels) - 1}")
        loss += float(torch.nn.functional.cross_entropy(logits, labels.cpu(), reduction="sum"))
        predicted = logits.argmax(1)
        confidences.append(1 / (logits - logits.amax(1, keepdim=True)).exp_().sum(1))
        confusion += torch.bincount(labels.cpu() * classes + predicted, minlength=classes * classes)
        predictions.append(predicted)
        if with_probabilities:
            probabilities.append(logits.softmax(1))
    called = torch.cat(predictions)
    right = called == split.labels.cpu()
    each = torch.cat(probabilities) if with_probabilities else None
    return Evaluation(loss / len(split), confusion.view(classes, classes), called, torch.cat(confidences), right, each)


def _logits(model: MLP, images: Tensor, normalization: Normalization) -> Tensor:
    """Logits of uint8 images: float64, (m, C), on the CPU."""
    weight = next(model.parameters())
    return model(normalization.apply(images.to(weight.device), weight.dtype)).to("cpu", torch.float64)


@torch.no_grad()
def last_hidden(model: MLP, images: Tensor, normalization: Normalization) -> Tensor:
    """Activations of the last hidden layer on uint8 images: float64, (m, H)."""
    weight, layers = next(model.parameters()), model.weights_and_biases()[:-1]
    x = normalization.apply(images.to(weight.device), weight.dtype)
    return functional.activate(functional.mlp(x, layers, model.activation), model.activation).to("cpu", torch.float64)


def precision_recall(
    probabilities_m: Tensor, positive_m: Tensor, thresholds: int = THRESHOLDS
) -> npt.NDArray[np.float64]:
    """True and false positives, true and false negatives, precision and recall by threshold: float64, (6, T).

    An example is called positive where its probability, float64 (m,), is at least the threshold ``t/(T − 1)``,
    t = 0 … T − 1. Precision is 1 where nothing is called positive, recall where there is no positive.
    """
    steps = (probabilities_m * (thresholds - 1)).floor().long().clamp(0, thresholds - 1)

    def at_least(chosen_m: Tensor) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = torch.bincount(steps[chosen_m], minlength=thresholds).double().numpy()
        return found[::-1].cumsum()[::-1]

    hits, alarms = at_least(positive_m), at_least(~positive_m)
    called, positives = hits + alarms, hits[0]
    precision = np.divide(hits, called, out=np.ones(thresholds), where=called > 0)
    recall = hits / positives if positives else np.ones(thresholds)
    return np.stack([hits, alarms, alarms[0] - alarms, positives - hits, precision, recall])


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided Clopper–Pearson interval for a probability (Clopper and Pearson, 1934), by beta quantiles."""
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else 1 - beta_quantile(trials - successes + 1, successes, tail)
    high = 1.0 if successes == trials else beta_quantile(successes + 1, trials - successes, tail)
    return low, high
