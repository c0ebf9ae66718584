"""The screen: at every step, for the cost of matrix–vector products, is the step about to be applied what it should be?

Every step is given a glance: all links of the chain in a few operations each, whole tensors at a time (``glance``).
Where something might be wrong, and at the first and every ``CLOSE_LOOK_EVERY``-th step anyway, the links are looked at
one by one, each row against its own threshold (``links``). What stood out at a glance and is not explained by these
thresholds, which are wide enough for any probe, is computed again in float64 (``steps.links``), and that decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lean_mnist.chainrule.mlp import MLPTrace
from lean_mnist.crosscheck.reference import NetworkLoss
from lean_mnist.crosscheck.screen.glance import Measured, can_glance, measure
from lean_mnist.crosscheck.screen.links import Links, Names, ScreenFailure
from lean_mnist.crosscheck.screen.probes import Probe, Probes
from lean_mnist.crosscheck.steps.links import links_of
from lean_mnist.crosscheck.steps.record import Call, Gradients, Layers, Step
from lean_mnist.nn.recording import CannotRecord, Recording

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
        self._recorded: dict[int, _RecordedGlance] = {}

    @torch.no_grad()
    def check(
        self,
        step: int,
        names: Names,
        layers: Layers,
        gradients: Gradients,
        traces: Sequence[MLPTrace],
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
        probes, seed = self._probes.of(step), self._probes.seed_of(step)
        stands_out = False
        if can_glance(layers, gradients, traces):
            share = self._glance(layers, gradients, traces[0], labels[0], loss, probes)
            stands_out = not share <= 1  # also NaN
            if not stands_out and (step - 1) % self._every:
                return ScreenResult((), share, False, False, seed, time.perf_counter() - started)
        failures, share = self._links.check(names, layers, gradients, traces, labels, loss, probes)
        if stands_out and not failures:
            recorded = Step(self._loss, names, layers, gradients, [Call(traces[0], labels[0])])
            shares = [(link, link.share) for link in links_of(recorded)]
            failures = tuple(ScreenFailure(link.link, link.tensor, (), of) for link, of in shares if not of <= 1)
            share = max([share, *(failure.share for failure in failures)])
        return ScreenResult(failures, share, True, stands_out, seed, time.perf_counter() - started)

    def _glance(
        self,
        layers: Layers,
        gradients: Gradients,
        trace: MLPTrace,
        labels_B: Tensor,
        loss: Tensor,
        probes: Sequence[Probe],
    ) -> float:
        """The share that a glance shows; recorded where step after step is written into the same tensors."""

        def look(probes: Sequence[Probe]) -> Measured:
            return measure(self._loss, layers, gradients, trace, labels_B, loss, probes)

        if not trace.stays or loss.device.type != "cpu":
            return look(probes).share()
        recorded = self._recorded.get(id(trace))
        if recorded is None:
            try:
                recorded = self._recorded[id(trace)] = _RecordedGlance(look, probes, (trace, layers, gradients))
            except CannotRecord:
                return look(probes).share()
        return recorded.share(probes)


class _RecordedGlance:
    """A glance at what stands in the same tensors step after step, with probes that are copied to one place.

    ``looked_at`` is kept, so that nothing else comes to stand there.
    """

    def __init__(self, look: Callable[[Sequence[Probe]], Measured], probes: Sequence[Probe], looked_at: Any) -> None:
        self._looked_at = looked_at
        self._probes = [Probe(v.clone(), u.clone()) for v, u in probes]
        self._recording = Recording(lambda: look(self._probes))

    def share(self, probes: Sequence[Probe]) -> float:
        for own, new in zip(self._probes, probes, strict=True):
            own.v.copy_(new.v)
            own.u.copy_(new.u)
        self._recording.play()
        return self._recording.result.share()
