"""What other layers, and calls before this one, computed: what a faulty step may have taken for its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.audit.steps.record import Step, there
from lean_mnist.crosscheck.diagnosis import Candidate, Kind
from lean_mnist.nn.step import RING_DEPTH, StepTape

NAMES = ("the call before", "two calls before")


def calls_before(step: Step, number: int) -> Iterator[StepTape]:
    """The calls before the ``number``-th of this step, the latest first."""
    calls = [*step.past, *step.calls]
    for shift in range(1, RING_DEPTH + 1):
        place = len(step.past) + number - shift
        if place >= 0 and calls[place].pre_activations:
            yield calls[place]


class Where(NamedTuple):
    """Another place that a value may have come from: so many calls before, and the layer."""

    shift: int
    layer: int

    def of(self, what: str, own: int) -> tuple[Kind, str]:
        """The kind of such a fault, and in words whose ``what`` it is."""
        layer = "" if self.layer == own else f" of layer {self.layer}"
        if not self.shift:
            return Kind.SWAPPED_TENSORS, f"{what}{layer}"
        return Kind.STALE_VALUE, f"{what}{layer} of {NAMES[self.shift - 1]}"


def elsewhere(step: Step, own: int) -> Iterator[Where]:
    """The same layer in earlier calls, then other layers in this and earlier ones."""
    others = [layer for layer in range(len(step.layers)) if layer != own]
    for layer in (own, *others):
        for shift in range(0 if layer != own else 1, RING_DEPTH + 1):
            yield Where(shift, layer)


def from_elsewhere(step: Step, index: int, shape: torch.Size) -> list[Candidate]:
    """What dW is if the gradients, the inputs or both are those of other layers or calls."""
    candidates, here = list[Candidate](), Where(0, index)
    for where in elsewhere(step, index):
        for words, d_z, h in (
            ("this is the gradient", where, where),
            ("formed with the input", here, where),
            ("formed with the upstream gradient", where, here),
        ):
            total = formed_of(step, d_z, h)
            if total is not None and total.shape == shape:
                candidates.append(Candidate(*where.of(words, index), total))
    return candidates


def left_over(step: Step, index: int, shape: torch.Size) -> dict[str, Tensor]:
    """Gradients of this shape that a buffer which was not cleared may still have held."""
    found = {where.of("the gradient", index)[1]: formed_of(step, where, where) for where in elsewhere(step, index)}
    return {name: total for name, total in found.items() if total is not None and total.shape == shape}


def formed_of(step: Step, of_d_z: Where, of_h: Where) -> Tensor | None:
    """``Σ dzᵀ h`` over this step's calls, with either factor from elsewhere; ``None`` where there is no such thing."""
    calls, parts = [*step.past, *step.calls], []
    for number in range(len(step.calls)):
        at = len(step.past) + number
        if at < max(of_d_z.shift, of_h.shift):
            return None
        d_z = there(calls[at - of_d_z.shift].d_pre_activations, of_d_z.layer)
        h = there(calls[at - of_h.shift].inputs, of_h.layer)
        if d_z is None or h is None or len(d_z) != len(h):
            return None
        parts.append(d_z.double().T @ h.double())
    return torch.stack(parts).sum(0) if len({part.shape for part in parts}) == 1 else None


def call_at(step: Step, number: int, shift: int) -> StepTape | None:
    """The call so many before the ``number``-th of this step; ``None`` if it is not known any more."""
    place = len(step.past) + number - shift
    calls = [*step.past, *step.calls]
    return calls[place] if place >= 0 and calls[place].pre_activations else None
