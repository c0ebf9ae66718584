"""What is known of a step that has been computed: its network, its gradients, its calls and those before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lean_mnist.audit.reference import NetworkLoss
from lean_mnist.nn.step import Gradients, Layers, StepResult, StepTape


@dataclass(frozen=True)
class Step:
    """A step as it was computed, and what was computed before it.

    ``calls`` are the tapes of its batches, whose gradients were summed with their ``upstream`` factors; ``past``
    earlier tapes, the latest last; ``again`` computes the step once more.
    """

    loss: NetworkLoss
    names: Sequence[tuple[str, str | None]]
    layers: Layers
    gradients: Gradients
    calls: Sequence[StepTape]
    past: Sequence[StepTape] = ()
    again: Callable[[], StepResult] | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers that a wrong constant factor may be."""
        examples = [len(call.labels_B) for call in (*self.calls, *self.past)]
        widths = [n for weight, _ in self.layers for n in weight.shape]
        return (*examples, sum(len(call.labels_B) for call in self.calls), *widths)


def there(values: Sequence[Any], index: int) -> Any:
    """``values[index]``; ``None`` where the backward did not go so far."""
    return values[index] if index < len(values) else None
