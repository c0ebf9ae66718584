"""What is known of a step that has been computed: its network, its gradients, its calls and those before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from lean_mnist.audit.reference import NetworkLoss
from lean_mnist.chainrule.mlp import MLPTrace

Layers = Sequence[tuple[Tensor, Tensor | None]]
Gradients = Sequence[tuple[Tensor | None, Tensor | None]]
REMEMBERED = 2  # calls before this one whose values may have been left over


class Call(NamedTuple):
    """One forward and backward of the mean loss of a batch."""

    trace: MLPTrace
    labels_B: Tensor
    upstream: float = 1.0
    layers: Layers | None = None  # what it ran with, where that is no longer what the others ran with


class StepRun(NamedTuple):
    """What the same step gives when it is computed again."""

    gradients: Gradients
    traces: Sequence[MLPTrace]


@dataclass(frozen=True)
class Step:
    """A step as it was computed, and what was computed before it.

    ``calls`` are its batches, whose gradients were summed with their ``upstream`` factors; ``past`` earlier calls,
    the latest last; ``again`` computes the step once more.
    """

    loss: NetworkLoss
    names: Sequence[tuple[str, str | None]]
    layers: Layers
    gradients: Gradients
    calls: Sequence[Call]
    past: Sequence[Call] = ()
    again: Callable[[], StepRun] | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers that a wrong constant factor may be."""
        examples = [len(call.labels_B) for call in (*self.calls, *self.past)]
        widths = [n for weight, _ in self.layers for n in weight.shape]
        return (*examples, sum(len(call.labels_B) for call in self.calls), *widths)


def names_of_layers(layers: Layers) -> list[tuple[str, str | None]]:
    """The names of each layer's weight and bias."""
    return [(f"layers.{i}.weight", None if bias is None else f"layers.{i}.bias") for i, (_, bias) in enumerate(layers)]


def there(values: Sequence[Any], index: int) -> Any:
    """``values[index]``; ``None`` where the backward did not go so far."""
    return values[index] if index < len(values) else None
