"""Checks the step that is about to be applied: the gradients in ``.grad``, on this batch, at these weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.audit.magnitude import gradient_magnitudes
from lean_mnist.audit.reference import KINKED, NetworkLoss, Reference, reference_gradients
from lean_mnist.audit.steps.diagnosis import StepFault, first_fault
from lean_mnist.audit.steps.recorded import explain_gradcheck, recorded_step
from lean_mnist.audit.subproblem import GradcheckResult, gradcheck_subproblem
from lean_mnist.chainrule import mlp
from lean_mnist.chainrule.activations import activation_named
from lean_mnist.crosscheck.comparison import Divergence, compare
from lean_mnist.crosscheck.diagnosis import diagnose
from lean_mnist.enclosure import GradientBound, enclose_model_gradients
from lean_mnist.nn import MLP
from lean_mnist.nn.step import StepTape, layers_of


@dataclass(frozen=True)
class CheckResult:
    """What one check found: divergences of the loss and of every gradient, proved bounds, and gradcheck's verdict."""

    divergences: tuple[Divergence, ...]  # empty where the comparison was not due
    bounds: tuple[GradientBound, ...]  # how far each gradient can be from the exact real one, proved
    gradcheck: GradcheckResult | None  # None where gradcheck was not due
    kinks: int  # units of this batch that stood on the kink, as far as rounding can tell
    seconds: float
    fault: StepFault | None = None  # the first link of the step that does not hold, or what else is to blame

    @property
    def passed(self) -> bool:
        agree = all(d.passed for d in self.divergences) and (self.gradcheck is None or self.gradcheck.passed)
        return agree and self.fault is None

    @property
    def largest(self) -> Divergence | None:
        """The divergence that uses the largest share of what rounding explains; of a parameter, not of the loss."""
        return max(self.divergences[1:], key=_badness, default=None)

    @property
    def failed(self) -> tuple[Divergence, ...]:
        """The divergences that failed, in the order in which a step computes them: the loss, then the last layer."""
        wrong = [(_place(d.name, at), d) for at, d in enumerate(self.divergences) if not d.passed]
        return tuple(divergence for _, divergence in sorted(wrong, key=lambda found: found[0]))

    @property
    def message(self) -> str:
        """What is wrong, in one line: the first cause with both values and its likely class, then the rest in brief."""
        first, *others = self.failed or (None,)
        found = [] if first is None else [str(first)]
        if self.fault is not None:
            same_place = first is not None and (first.name, first.index) == (
                self.fault.tensor,
                self.fault.diagnosis.index,
            )
            found.append(self.fault.brief if same_place else str(self.fault))
        if others:
            found.append("also wrong: " + ", ".join(f"{_named(d)} (divergence {d.value:.2e})" for d in others if d))
        if self.gradcheck is not None and not self.gradcheck.passed:
            # PyTorch's own words may go on for a paragraph.
            found.append("gradcheck fails too" if first is not None else self.gradcheck.message.partition(" NOTE:")[0])
        return "; ".join(found)

    @property
    def details(self) -> str:
        """``message``, and all that gradcheck says."""
        said = "" if self.gradcheck is None or self.gradcheck.passed else self.gradcheck.message
        return "; ".join(filter(None, [self.message, "" if said in self.message else said]))


def _badness(divergence: Divergence) -> float:
    return divergence.share if divergence.share == divergence.share else float("inf")


def _place(name: str, at: int) -> tuple[int, int]:
    """Where a tensor stands in the backward pass: ``layers.3.weight`` before ``layers.2.weight``, the loss first."""
    parts = name.split(".")
    return (-int(parts[1]), at) if len(parts) == 3 and parts[1].isdecimal() else (-(10**9), at)


def _named(divergence: Divergence) -> str:
    return divergence.name + (f"[{', '.join(map(str, divergence.index))}]" if divergence.index else "")


class Yardstick(NamedTuple):
    """What the gradients of one step are compared with: the reference, and what rounding does to plain PyTorch's."""

    names: tuple[str, ...]
    reference: Reference  # in float64
    baseline: Reference  # in the precision under test
    magnitudes: tuple[float, ...]  # of the terms that each gradient is a sum of

    def compare(self, loss: Tensor, gradients: Sequence[Tensor | None]) -> tuple[Divergence, ...]:
        """The divergence of the loss and of each gradient, in the order of the parameters; a missing one is NaN."""
        # The loss is a difference of logits, so its rounding is relative to them.
        of_loss = 4 * (1 + float(self.reference.logits.abs().amax()))
        divergences = [compare("loss", loss.detach(), self.reference.loss, self.baseline.loss, of_loss)]
        for name, ours, exact, plain, magnitude in zip(
            self.names, gradients, self.reference.gradients, self.baseline.gradients, self.magnitudes, strict=True
        ):
            found = torch.full_like(plain, torch.nan) if ours is None else ours
            divergences.append(compare(name, found, exact, plain, magnitude))
        return tuple(divergences)


class TrainingCheck:
    """Compares a model's hand-written gradients with the reference, and runs gradcheck on a piece of the step."""

    def __init__(self, model: MLP) -> None:
        self._model = model
        self._loss = NetworkLoss(model.activation, model.label_smoothing, model.logit_penalty)

    def check(
        self,
        x_BD: Tensor,
        labels_B: Tensor,
        loss: Tensor,
        *,
        compare_gradients: bool,
        gradcheck: bool,
        tapes: Sequence[StepTape] = (),
        past: Sequence[StepTape] = (),
    ) -> CheckResult:
        """Check the gradients now in ``.grad``, said to be those of the mean loss ``loss`` on ``(x, labels)``.

        ``tapes`` are what the step computed on its way, one a batch whose gradients were averaged: each link of it is
        computed again (``steps.links``), and they tell on which side of its kink the step saw each unit. Without
        them the forward is run again on the whole of ``x``, and only the gradients are looked at. ``past`` are the
        calls before this step, for the diagnosis of one that fails.
        """
        started = time.perf_counter()
        layers = self._layers()
        divergences: tuple[Divergence, ...] = ()
        bounds: tuple[GradientBound, ...] = ()
        kinks, fault = 0, None
        if compare_gradients:
            sides = self._sides(layers, x_BD, tapes)
            yardstick = self._yardstick(layers, x_BD, labels_B, sides)
            divergences = yardstick.compare(loss, [p.grad for p in self._model.parameters()])
            kinks = yardstick.reference.kinks
            fault = self._first_fault(x_BD, labels_B, tapes, past, yardstick, divergences)
            # The enclosure runs the chain rule's own formulas: where they are wrong, it has nothing to say.
            if fault is None and all(divergence.passed for divergence in divergences):
                bounds = self._enclose(x_BD, labels_B, sides)
        verdict = gradcheck_subproblem(self._loss, layers, x_BD, labels_B) if gradcheck else None
        if fault is None and verdict is not None and not verdict.passed:
            fault = explain_gradcheck(self._loss, layers, x_BD, labels_B)
        return CheckResult(divergences, bounds, verdict, kinks, time.perf_counter() - started, fault)

    def _first_fault(
        self,
        x_BD: Tensor,
        labels_B: Tensor,
        tapes: Sequence[StepTape],
        past: Sequence[StepTape],
        yardstick: Yardstick,
        divergences: Sequence[Divergence],
    ) -> StepFault | None:
        """The first link of the step that does not hold; if none is seen, the first gradient that is wrong."""
        if tapes:
            sizes = [len(tape.inputs[0]) for tape in tapes]
            batches = list(zip(x_BD.split(sizes), labels_B.split(sizes), strict=True))
            fault = first_fault(recorded_step(self._model, self._loss, batches, tapes, past))
            if fault is not None:
                return fault
        failed = CheckResult(tuple(divergences), (), None, 0, 0.0).failed
        if not failed or failed[0].name not in yardstick.names:
            return None
        name = failed[0].name
        exact = yardstick.reference.gradients[yardstick.names.index(name)]
        parameter = dict(self._model.named_parameters())[name]
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        found = diagnose(
            ours,
            exact,
            tolerance=failed[0].allowed * float(exact.norm()) / max(1.0, ours.numel() ** 0.5),
            terms={name: parameter.detach()},
            sizes=[len(labels_B), *(n for p in self._model.parameters() for n in p.shape)],
        )
        return StepFault(name, "", found)

    def yardstick(self, x_BD: Tensor, labels_B: Tensor, tapes: Sequence[StepTape] = ()) -> Yardstick:
        """What the gradients of this batch are compared with, at the present weights; ``tapes`` as in ``check``."""
        return self._yardstick(self._layers(), x_BD, labels_B, self._sides(self._layers(), x_BD, tapes))

    def _layers(self) -> list[tuple[Tensor, Tensor | None]]:
        return layers_of(self._model)

    def _yardstick(
        self,
        layers: Sequence[tuple[Tensor, Tensor | None]],
        x_BD: Tensor,
        labels_B: Tensor,
        sides: Sequence[Tensor] | None,
    ) -> Yardstick:
        reference, baseline = (
            reference_gradients(self._loss, layers, x_BD, labels_B, dtype=dtype, sides=sides)
            for dtype in (torch.float64, x_BD.dtype)
        )
        names = [name for name, _ in self._model.named_parameters()]
        magnitudes = gradient_magnitudes(self._loss, layers, x_BD, labels_B)
        return Yardstick(tuple(names), reference, baseline, tuple(magnitudes))

    def _enclose(self, x_BD: Tensor, labels_B: Tensor, sides: Sequence[Tensor] | None) -> tuple[GradientBound, ...]:
        """Bounds on ``|computed − exact|``, where the exact gradient is that of the piece the step was on."""
        enclosure = enclose_model_gradients(self._model, x_BD, labels_B, sides=sides)
        gradients = {name: p.grad for name, p in self._model.named_parameters() if p.grad is not None}
        return tuple(enclosure.bound(name, gradient) for name, gradient in gradients.items())

    @torch.no_grad()
    def _sides(
        self, layers: Sequence[tuple[Tensor, Tensor | None]], x_BD: Tensor, tapes: Sequence[StepTape]
    ) -> list[Tensor] | None:
        """On which side of its kink the step saw each hidden unit: the step's own forward, in its own order of sums."""
        if self._loss.activation not in KINKED:
            return None
        if tapes:
            batches = zip(*(tape.pre_activations[:-1] for tape in tapes), strict=True)
            return [torch.cat(layer) > 0 for layer in batches]
        _, tape = mlp.mlp_forward(x_BD, layers, activation_named(self._loss.activation))
        return [h > 0 for h in tape.saved]
