"""The audit of a step that is about to be applied: the gradients in ``.grad``, on this batch, at these weights."""

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.audit.diagnosis import StepFault, explain_gradcheck, first_fault
from lean_mnist.audit.gradcheck_piece import GradcheckResult, gradcheck_piece
from lean_mnist.audit.local_checks import ComputedStep
from lean_mnist.audit.reference import (
    REFERENCE_ACTIVATIONS,
    Magnitudes,
    NetworkLoss,
    Reference,
    magnitudes,
    reference_gradients,
)
from lean_mnist.chainrule import mlp
from lean_mnist.chainrule.activations import activation_named
from lean_mnist.crosscheck.comparison import Divergence, compare, or_infinity
from lean_mnist.crosscheck.diagnosis import diagnose
from lean_mnist.enclosure.enclose import GradientBound, enclose_model_gradients
from lean_mnist.nn import MLP
from lean_mnist.nn.step import Batch, Layers, StepTape, layers_of


@dataclass(frozen=True)
class AuditResult:
    """Findings of one audit: divergences of the loss and of every gradient, proved bounds, and gradcheck's verdict."""

    divergences: tuple[Divergence, ...]  # empty where the comparison was not due
    bounds: tuple[GradientBound, ...]  # how far each gradient can be from the exact real one, proved
    gradcheck: GradcheckResult | None  # None where gradcheck was not due
    kinks: int  # units of this batch that stood on the kink, as far as rounding can tell
    seconds: float
    fault: StepFault | None = None  # the first local check that fails, or what else is to blame

    @property
    def passed(self) -> bool:
        """True if nothing is known to be wrong."""
        agree = all(d.passed for d in self.divergences) and (self.gradcheck is None or self.gradcheck.passed)
        return agree and self.fault is None

    @property
    def largest(self) -> Divergence | None:
        """The divergence that uses the largest share of what rounding explains; of a parameter, not of the loss."""
        return max(self.divergences[1:], key=lambda d: or_infinity(d.share), default=None)

    @property
    def failed(self) -> tuple[Divergence, ...]:
        """The divergences that failed, in the order in which a step computes them: the loss, then the last layer."""
        return _failed(self.divergences)

    @property
    def message(self) -> str:
        """The fault in one line: the first cause with both values and its likely class, then the rest in brief."""
        failed = self.failed
        found = [str(first) for first in failed[:1]]
        if self.fault is not None:
            place = (self.fault.tensor, self.fault.diagnosis.index)
            said = place in [(first.name, first.index) for first in failed[:1]]
            found.append(self.fault.brief if said else str(self.fault))
        if failed[1:]:
            found.append("also wrong: " + ", ".join(f"{_named(d)} (divergence {d.value:.2e})" for d in failed[1:]))
        if self.gradcheck is not None and not self.gradcheck.passed:
            # PyTorch's own words may go on for a paragraph.
            found.append("gradcheck fails too" if failed else self.gradcheck.message.partition(" NOTE:")[0])
        return "; ".join(found)

    @property
    def details(self) -> str:
        """``message``, and all that gradcheck says."""
        said = "" if self.gradcheck is None or self.gradcheck.passed else self.gradcheck.message
        return "; ".join(filter(None, [self.message, "" if said in self.message else said]))


def _failed(divergences: Sequence[Divergence]) -> tuple[Divergence, ...]:
    return tuple(sorted((d for d in divergences if not d.passed), key=_place))


def _place(divergence: Divergence) -> float:
    """Place of a tensor in the backward pass: ``layers.3.weight`` before ``layers.2.weight``, the loss first."""
    parts = divergence.name.split(".")
    return -int(parts[1]) if len(parts) == 3 and parts[1].isdecimal() else -math.inf


def _named(divergence: Divergence) -> str:
    return divergence.name + (f"[{', '.join(map(str, divergence.index))}]" if divergence.index else "")


class ReferenceValues(NamedTuple):
    """Values that the gradients of one step are compared with: the reference, and plain PyTorch's as a baseline."""

    names: tuple[str, ...]
    reference: Reference  # in float64
    baseline: Reference  # in the precision under test
    magnitudes: Magnitudes  # of the terms that gradients and loss are sums of
    sides: Sequence[Tensor] | None  # of its kink on which the step saw each hidden unit: bool (B, H), one a layer

    def compare(self, loss: Tensor, gradients: Sequence[Tensor | None]) -> tuple[Divergence, ...]:
        """The divergence of the loss and of each gradient, in the order of the parameters; a missing one is NaN."""
        # The loss is a difference of logits, so its rounding is relative to them. Of a network in 16 bits it is a
        # float32, and what the logits bring is far more than its own rounding: one baseline may be near by luck.
        of_loss = 4 * (1 + float(self.reference.logits.abs().amax()))
        narrow = torch.finfo(self.baseline.logits.dtype)
        if narrow.bits <= 16:
            of_loss += self.magnitudes.loss * narrow.eps / torch.finfo(loss.dtype).eps
        divergences = [compare("loss", loss.detach(), self.reference.loss, self.baseline.loss, of_loss)]
        references = (self.reference.gradients, self.baseline.gradients, self.magnitudes.gradients)
        for name, ours, exact, plain, magnitude in zip(self.names, gradients, *references, strict=True):
            found = torch.full_like(plain, torch.nan) if ours is None else ours
            divergences.append(compare(name, found, exact, plain, magnitude))
        return tuple(divergences)


class StepAudit:
    """Audits the steps of one network."""

    def __init__(self, model: MLP) -> None:
        self._model, self._rule = model, NetworkLoss.of(model)

    def check(
        self,
        batches: Sequence[Batch],
        loss: Tensor,
        *,
        compare_gradients: bool,
        gradcheck: bool,
        tapes: Sequence[StepTape] = (),
        past: Sequence[StepTape] = (),
    ) -> AuditResult:
        """Audit the gradients now in ``.grad``, those of the mean ``loss`` over all examples of ``batches``.

        ``compare_gradients`` with the reference, run the local checks, and enclose; run ``gradcheck`` on a piece.
        ``tapes`` are the step's, one a batch, which the local checks look at and which tell on which side of its kink
        the step saw each unit; without them the forward is run again, and only the gradients are looked at. ``past``
        are those of the calls before, the latest last, for the diagnosis of one that fails.
        """
        started = time.perf_counter()
        layers, (x, labels) = layers_of(self._model), joined(batches)
        divergences: tuple[Divergence, ...] = ()
        bounds: tuple[GradientBound, ...] = ()
        kinks, fault = 0, None
        if compare_gradients:
            values = self.reference_values(batches, tapes)
            divergences = values.compare(loss, [p.grad for p in self._model.parameters()])
            kinks = values.reference.kinks
            if tapes:
                fault = first_fault(ComputedStep.of(self._model, batches, tapes, loss, past))
            if fault is None:
                fault = self._fault_of_gradients(len(labels), values, divergences)
            # The enclosure runs the chain rule's own formulas: where they are wrong, it has nothing to say.
            if fault is None and all(divergence.passed for divergence in divergences):
                gradients = {name: p.grad for name, p in self._model.named_parameters() if p.grad is not None}
                bounds = enclose_model_gradients(self._model, x, labels, sides=values.sides).bounds(gradients)
        verdict = gradcheck_piece(self._rule, layers, x, labels) if gradcheck else None
        if fault is None and verdict is not None and not verdict.passed:
            fault = explain_gradcheck(self._rule, layers, x, labels)
        return AuditResult(divergences, bounds, verdict, kinks, time.perf_counter() - started, fault)

    def reference_values(self, batches: Sequence[Batch], tapes: Sequence[StepTape] = ()) -> ReferenceValues:
        """Reference and baseline of these batches at the present weights; ``tapes`` as in :meth:`check`."""
        layers, (x, labels) = layers_of(self._model), joined(batches)
        sides = self._sides(layers, x, tapes)
        computed = functools.partial(reference_gradients, self._rule, layers, x, labels, sides=sides)
        reference, baseline = computed(dtype=torch.float64), computed(dtype=x.dtype)
        names = tuple(name for name, _ in self._model.named_parameters())
        return ReferenceValues(names, reference, baseline, magnitudes(self._rule, layers, x, labels), sides)

    def _fault_of_gradients(
        self, examples: int, values: ReferenceValues, divergences: Sequence[Divergence]
    ) -> StepFault | None:
        """The first gradient that differs from the reference, diagnosed; where no local check fails."""
        failed = _failed(divergences)
        if not failed or failed[0].name not in values.names:
            return None
        name = failed[0].name
        exact, parameter = values.reference.gradients[values.names.index(name)], self._model.get_parameter(name)
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        tolerance = failed[0].allowed * float(exact.norm()) / max(1.0, ours.numel() ** 0.5)
        sizes = [examples, *(n for p in self._model.parameters() for n in p.shape)]
        found = diagnose(ours, exact, tolerance=tolerance, terms={name: parameter.detach()}, sizes=sizes)
        return StepFault(name, "", found)

    @torch.no_grad()
    def _sides(self, layers: Layers, x_BD: Tensor, tapes: Sequence[StepTape]) -> list[Tensor] | None:
        """Side of its kink, as the step's own forward saw it, of each hidden unit: bool ``(B, H)``, one a layer."""
        if REFERENCE_ACTIVATIONS[self._rule.activation].below_kink is None:
            return None
        if tapes:
            batches = zip(*(tape.pre_activations[:-1] for tape in tapes), strict=True)
            return [torch.cat(layer) > 0 for layer in batches]
        _, tape = mlp.mlp_forward(x_BD, layers, activation_named(self._rule.activation))
        return [z > 0 for z in tape.pre_activations[:-1]]


def joined(batches: Sequence[Batch]) -> Batch:
    """All examples of ``batches`` as one."""
    if len(batches) == 1:
        return batches[0]
    return torch.cat([x for x, _ in batches]), torch.cat([labels for _, labels in batches])
