"""Hooks that observe: loss and learning rate, norms and distributions of the parameters and of their gradients."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lean_mnist.nn.step import Step
from lean_mnist.training.config.schedules import Schedule, every
from lean_mnist.training.sinks.records import Counts, Histogram, Notice, Record, Scalar

# LEAN_mnist's thresholds for the norm of one tensor's gradient.
EXPLODING, VANISHING = 10.0, 1e-4


class LossHook:
    """Records loss and learning rate."""

    def __init__(self, due: Schedule) -> None:
        self.due = due

    def on_gradients(self, step: Step) -> Iterator[Record]:
        """Two scalars."""
        yield Scalar(step.number, "train/loss", step.loss_value)
        yield Scalar(step.number, "train/learning_rate", step.learning_rate)


class NormsHook:
    """Records norms of each tensor and its gradient; one warning a tensor when a gradient explodes or vanishes.

    Small gradients are normal, and no warning, once the loss is below a tenth of ``guessing``, that of a network that
    knows nothing. ``warned`` has the tensors and warnings that were given; a resumed run does not repeat them.
    """

    def __init__(self, due: Schedule, guessing: float, warned: list[str]) -> None:
        self.due, self._guessing, self._warned = due, guessing, warned

    def on_gradients(self, step: Step) -> Iterator[Record]:
        """Two scalars a tensor, one of all, and warnings."""
        still_learning = step.loss_value > 0.1 * self._guessing
        for name, gradient, parameter in step.norms:
            yield Scalar(step.number, f"gradient_norm/{name}", gradient)
            yield Scalar(step.number, f"parameter_norm/{name}", parameter)
            if gradient > EXPLODING:
                yield from self._warn(step.number, name, f"exploding: its norm is {gradient:.3g}, above {EXPLODING:g}")
            elif gradient < VANISHING and still_learning:
                yield from self._warn(step.number, name, f"vanishing: its norm is {gradient:.3g}, below {VANISHING:g}")
        yield Scalar(step.number, "gradient_norm/all", math.hypot(*(gradient for _, gradient, _ in step.norms)))

    def _warn(self, number: int, name: str, what: str) -> Iterator[Record]:
        key = f"{name} {what.partition(':')[0]}"
        if key not in self._warned:
            self._warned.append(key)
            yield Notice(number, "health/warning", f"the gradient of {name} is {what}")


class HistogramsHook:
    """Records the distributions of each tensor and its gradient, in bins of equal width, about once an epoch.

    That is at every so many-th of the steps at which others record, so that it interrupts no further chunk of steps.
    """

    def __init__(self, log_every: int, steps_per_epoch: float) -> None:
        self.due = every(log_every * max(1, round(steps_per_epoch / log_every)))

    def on_gradients(self, step: Step) -> Iterator[Record]:
        """Two histograms a tensor; none of what is not finite."""
        for name, parameter in step.model.named_parameters():
            for what, tensor in (("values", parameter.detach()), ("gradients", parameter.grad)):
                if tensor is not None and (counts := _counts(tensor.float())):
                    yield Histogram(step.number, f"{what}/{name}", counts)


_BINS = 40


def _counts(values: Tensor) -> Counts | None:
    low, high, total, squares = torch.stack([*values.aminmax(), values.sum(), values.square().sum()]).tolist()
    if not math.isfinite(squares):
        return None
    found = torch.histc(values, _BINS, low, high).tolist() if low < high else [float(values.numel())]
    return Counts(low, high, total, squares, found)
