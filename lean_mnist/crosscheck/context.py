"""What the rules share: the function at its inputs, random upstream gradients, and what rounding does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lean_mnist.crosscheck.calls import CallFailed, Evaluated, Subject, Upstream, norm, normal, one_line
from lean_mnist.crosscheck.numerics.perturbation import jittered_vjp, rounded_anew

# How much of the scatter that re-rolled rounding shows, and how many units of rounding, a difference may be.
SCATTER_FACTOR = 10.0
FLOOR_ULPS = 32.0
SCATTER_CALLS = 3


@dataclass
class Context:
    """One check: the subject, its reference (if any), random probes, and facts found out on the way."""

    subject: Subject
    reference: Subject | None
    names: list[str]
    seed: int
    probes: int
    replays: int
    outputs: list[Tensor]  # of the first forward, detached
    differentiable: list[bool]  # which of them depend on an input
    float64: str = ""  # why the function does not take float64; empty if it does
    coarsest: float = 0.0  # a unit of rounding on the way that is larger than the dtypes say (autocast, TF32)
    noise: dict[object, float] = field(default_factory=dict)  # of one output, by checked input and precision
    kinks: set[int] = field(default_factory=set)  # inputs at whose value a rule met a kink
    generator: torch.Generator = field(default_factory=torch.Generator)

    def __post_init__(self) -> None:
        self.generator.manual_seed(self.seed)

    @property
    def checked(self) -> tuple[int, ...]:
        return self.subject.checked

    @property
    def dtypes(self) -> list[torch.dtype]:
        inputs = [self.subject.inputs[i].dtype for i in self.checked]
        return [*inputs, *(y.dtype for y in self.outputs)]

    @property
    def unit(self) -> float:
        """The unit of rounding of the coarsest dtype among inputs and outputs, or on the way."""
        return max(self.coarsest, *(torch.finfo(dtype).eps / 2 for dtype in self.dtypes))

    def gaussian(self, like: Sequence[Tensor] | None = None) -> list[Tensor | None]:
        """Upstream gradients, Gaussian, one for each output, exactly representable in its dtype."""
        return [normal(y.shape, self.generator, y.device).to(y.dtype) for y in (like or self.outputs)]

    def allowances(self, upstream: Upstream, gradients: Sequence[Tensor]) -> list[float]:
        """For each checked input, how far (in 2-norm) rounding may move its gradient.

        Measured with no reference: the gradient's scatter when every rounding on the way is drawn anew (``jitter``).
        """
        scatter = [0.0] * len(self.checked)
        for _ in range(SCATTER_CALLS):
            inputs = rounded_anew(self.subject, self.generator, self.coarsest or None)
            moved = jittered_vjp(self.subject, upstream, inputs, self.generator)
            scatter = [max(s, norm(a - b)) for s, a, b in zip(scatter, moved, gradients, strict=True)]
        return [
            SCATTER_FACTOR * s + FLOOR_ULPS * self.unit * norm(g) + torch.finfo(g.dtype).tiny
            for s, g in zip(scatter, gradients, strict=True)
        ]

    def gradients(self, upstream: Upstream) -> list[Tensor]:
        return self.subject.vjp(upstream)

    def name(self, place: int) -> str:
        """The name of the ``place``-th checked input."""
        return self.names[self.checked[place]]


def takes_float64(subject: Subject, seed: int) -> str:
    """Empty if the function and its backward run in float64; else why not, in words."""
    generator = torch.Generator().manual_seed(seed)
    try:
        evaluated: Evaluated = subject.call(dtype=torch.float64)
        if any(y.dtype != torch.float64 for y in evaluated.outputs):
            return f"its output is {next(y.dtype for y in evaluated.outputs if y.dtype != torch.float64)}"
        subject.vjp([normal(y.shape, generator, y.device) for y in evaluated.outputs], dtype=torch.float64)
    except CallFailed as failure:  # in its own precision both ran before
        return one_line(failure.error) or type(failure.error).__name__
    return ""
