"""The screen: at every step, for the cost of matrix–vector products, is the step about to be applied what it should be?

Every step is given a glance: all links of the chain in a few operations each, whole tensors at a time (``glance``).
Where something might be wrong, and at the first and every ``CLOSE_LOOK_EVERY``-th step anyway, the links are looked at
one by one, each row against its own threshold (``links``). What stood out at a glance and is not explained by these
thresholds, which are wide enough for any probe, is computed again in float64 (``steps.links``), and that decides.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lean_mnist.audit.reference import NetworkLoss
from lean_mnist.audit.screen.glance import Glance, can_glance
from lean_mnist.audit.screen.links import Links, Names, ScreenFailure
from lean_mnist.audit.screen.probes import Probes
from lean_mnist.audit.steps.links import links_of
from lean_mnist.audit.steps.record import Step
from lean_mnist.nn.recording import CannotRecord, Recording
from lean_mnist.nn.step import Gradients, Layers, StepTape

CLOSE_LOOK_EVERY = 50


@dataclass(frozen=True)
class ScreenResult:
    """What one screened step showed."""

    failures: tuple[ScreenFailure, ...]
    share: float  # the largest residual as a share of its threshold
    close: bool  # whether the links were looked at one by one
    stood_out: bool  # whether the glance was the reason
    seed: int
    seconds: float

    @property
    def passed(self) -> bool:
        return not self.failures


class StepScreen:
    """Screens the steps of one network; probes come from ``seed`` and the step's number, so a step can be replayed."""

    def __init__(self, loss: NetworkLoss, seed: int = 0, close_look_every: int = CLOSE_LOOK_EVERY) -> None:
        self._loss, self._links, self._seed, self._every = loss, Links(loss), seed, close_look_every
        self._probes: Probes | None = None
        self._glances: dict[int, Glance] = {}  # by the number of examples
        self._recorded: dict[int, _RecordedGlance] = {}  # by the identity of the trace

    def again(self, step: int, traces: Sequence[StepTape], loss: float) -> ScreenResult | None:
        """A glance at what stands in the same tensors as the last time that this trace was given to :meth:`check`.

        ``None`` where that is not known to be so, where a closer look is due, or something stands out: it is then
        :meth:`check` that decides.
        """
        recorded = self._recorded.get(id(traces[0])) if len(traces) == 1 else None
        if recorded is None or self._probes is None or not (step - 1) % self._every:
            return None
        started = time.perf_counter()
        share = recorded.share(self._probes.vector(step), loss)
        if not share <= 1:  # also NaN
            return None
        return ScreenResult((), share, False, False, self._probes.seed_of(step), time.perf_counter() - started)

    @torch.no_grad()
    def check(
        self,
        step: int,
        names: Names,
        layers: Layers,
        gradients: Gradients,
        traces: Sequence[StepTape],
        labels: Sequence[Tensor],
        loss: Tensor,
    ) -> ScreenResult:
        """Screen one step.

        Args:
            step: its number, from 1.
            names, layers, gradients: of each layer's weight and bias, first layer first.
            traces, labels: of each batch whose gradients were averaged; one, unless gradients were accumulated.
            loss: the mean over all examples, as the step reports it.
        """
        started = time.perf_counter()
        if self._probes is None or not self._probes.fit(layers[0][0]):
            self._probes = Probes(self._seed, [(w.shape[0], w.shape[1]) for w, _ in layers], layers[0][0])
            self._glances, self._recorded = {}, {}
        seed = self._probes.seed_of(step)
        stands_out = False
        if can_glance(layers, gradients, traces):
            share = self._glance(layers, gradients, traces[0], labels[0], loss, self._probes.vector(step))
            stands_out = not share <= 1  # also NaN
            if not stands_out and (step - 1) % self._every:
                return ScreenResult((), share, False, False, seed, time.perf_counter() - started)
        probes = self._probes.of(step)
        failures, share = self._links.check(names, layers, gradients, traces, labels, loss, probes)
        if stands_out and not failures:
            recorded = Step(self._loss, names, layers, gradients, traces)
            shares = [(link, link.share) for link in links_of(recorded)]
            failures = tuple(ScreenFailure(link.link, link.tensor, (), of) for link, of in shares if not of <= 1)
            share = max([share, *(failure.share for failure in failures)])
        return ScreenResult(failures, share, True, stands_out, seed, time.perf_counter() - started)

    def _glance(
        self, layers: Layers, gradients: Gradients, trace: StepTape, labels_B: Tensor, loss: Tensor, probes: Tensor
    ) -> float:
        """The share that a glance shows; recorded where step after step is written into the same tensors."""
        recorded = self._recorded.get(id(trace))
        if recorded is not None:
            return recorded.share(probes, float(loss))
        glance = self._glances.get(len(labels_B))
        if glance is None:
            glance = self._glances[len(labels_B)] = Glance(self._loss, layers, trace.pre_activations[-1], loss)
        glance.probes.copy_(probes)
        if trace.static and loss.device.type == "cpu":
            with contextlib.suppress(CannotRecord):
                self._recorded[id(trace)] = _RecordedGlance(glance, layers, gradients, trace, labels_B)
                return glance.share(float(loss))
        glance.look(layers, gradients, trace, labels_B)
        return glance.share(float(loss))


class _RecordedGlance:
    """A glance at what stands in the same tensors step after step.

    ``looked_at`` is kept, so that nothing else comes to stand there.
    """

    def __init__(self, glance: Glance, layers: Layers, gradients: Gradients, trace: StepTape, labels_B: Tensor) -> None:
        self._glance, self._looked_at = glance, (layers, gradients, trace, labels_B)
        self._recording = Recording(lambda: glance.look(*self._looked_at))

    def share(self, probes: Tensor, loss: float) -> float:
        self._glance.probes.copy_(probes)
        self._recording.play()
        return self._glance.share(loss)
