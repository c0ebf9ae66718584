"""Checks the step that is about to be applied: the gradients in ``.grad``, on this batch, at these weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lean_mnist.chainrule import mlp
from lean_mnist.chainrule.activations import activation_named
from lean_mnist.crosscheck.comparison import Divergence, compare
from lean_mnist.crosscheck.enclosure import GradientBound, enclose_model_gradients
from lean_mnist.crosscheck.magnitude import gradient_magnitudes
from lean_mnist.crosscheck.reference import KINKED, NetworkLoss, reference_gradients
from lean_mnist.crosscheck.subproblem import GradcheckResult, gradcheck_subproblem
from lean_mnist.nn import MLP


@dataclass(frozen=True)
class CheckResult:
    """What one check found: divergences of the loss and of every gradient, proved bounds, and gradcheck's verdict."""

    divergences: tuple[Divergence, ...]  # empty where the comparison was not due
    bounds: tuple[GradientBound, ...]  # how far each gradient can be from the exact real one, proved
    gradcheck: GradcheckResult | None  # None where gradcheck was not due
    kinks: int  # units of this batch that stood on the kink, as far as rounding can tell
    seconds: float

    @property
    def passed(self) -> bool:
        return all(d.passed for d in self.divergences) and (self.gradcheck is None or self.gradcheck.passed)

    @property
    def largest(self) -> Divergence | None:
        """The divergence that uses the largest share of what rounding explains; of a parameter, not of the loss."""
        return max(self.divergences[1:], key=_badness, default=None)

    @property
    def message(self) -> str:
        """What is wrong, worst first; empty if nothing is."""
        failed = sorted((d for d in self.divergences if not d.passed), key=_badness, reverse=True)
        found = [str(divergence) for divergence in failed]
        if self.gradcheck is not None and not self.gradcheck.passed:
            found.append(self.gradcheck.message)
        return "; ".join(found)


def _badness(divergence: Divergence) -> float:
    return divergence.share if divergence.share == divergence.share else float("inf")


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
        traces: Sequence[mlp.MLPTrace] = (),
    ) -> CheckResult:
        """Check the gradients now in ``.grad``, said to be those of the mean loss ``loss`` on ``(x, labels)``.

        ``traces`` are what the step computed on its way, one a batch whose gradients were averaged; they tell on which
        side of its kink the step saw each unit. Without them the forward is run again on the whole of ``x``.
        """
        started = time.perf_counter()
        layers = [
            (weight.detach(), None if bias is None else bias.detach())
            for weight, bias in self._model.weights_and_biases()
        ]
        divergences: tuple[Divergence, ...] = ()
        bounds: tuple[GradientBound, ...] = ()
        kinks = 0
        if compare_gradients:
            sides = self._sides(layers, x_BD, traces)
            divergences, kinks = self._compare(layers, x_BD, labels_B, loss, sides)
            # The enclosure runs the chain rule's own formulas: where they are wrong, it has nothing to say.
            if all(divergence.passed for divergence in divergences):
                bounds = self._enclose(x_BD, labels_B, sides)
        verdict = gradcheck_subproblem(self._loss, layers, x_BD, labels_B) if gradcheck else None
        return CheckResult(divergences, bounds, verdict, kinks, time.perf_counter() - started)

    def _compare(
        self,
        layers: Sequence[tuple[Tensor, Tensor | None]],
        x_BD: Tensor,
        labels_B: Tensor,
        loss: Tensor,
        sides: Sequence[Tensor] | None,
    ) -> tuple[tuple[Divergence, ...], int]:
        reference, baseline = (
            reference_gradients(self._loss, layers, x_BD, labels_B, dtype=dtype, sides=sides)
            for dtype in (torch.float64, x_BD.dtype)
        )
        # The loss is a difference of logits, so its rounding is relative to them.
        of_loss = 4 * (1 + float(reference.logits.abs().amax()))
        divergences = [compare("loss", loss.detach(), reference.loss, baseline.loss, of_loss)]
        magnitudes = gradient_magnitudes(self._loss, layers, x_BD, labels_B)
        for (name, parameter), exact, plain, magnitude in zip(
            self._model.named_parameters(), reference.gradients, baseline.gradients, magnitudes, strict=True
        ):
            ours = parameter.grad if parameter.grad is not None else torch.full_like(parameter, torch.nan)
            divergences.append(compare(name, ours, exact, plain, magnitude))
        return tuple(divergences), reference.kinks

    def _enclose(self, x_BD: Tensor, labels_B: Tensor, sides: Sequence[Tensor] | None) -> tuple[GradientBound, ...]:
        """Bounds on ``|computed − exact|``, where the exact gradient is that of the piece the step was on."""
        enclosure = enclose_model_gradients(self._model, x_BD, labels_B, sides=sides)
        gradients = {name: p.grad for name, p in self._model.named_parameters() if p.grad is not None}
        return tuple(enclosure.bound(name, gradient) for name, gradient in gradients.items())

    @torch.no_grad()
    def _sides(
        self, layers: Sequence[tuple[Tensor, Tensor | None]], x_BD: Tensor, traces: Sequence[mlp.MLPTrace]
    ) -> list[Tensor] | None:
        """On which side of its kink the step saw each hidden unit: the step's own forward, in its own order of sums."""
        if self._loss.activation not in KINKED:
            return None
        if traces:
            batches = zip(*(trace.pre_activations[:-1] for trace in traces), strict=True)
            return [torch.cat(layer) > 0 for layer in batches]
        _, tape = mlp.mlp_forward(x_BD, layers, activation_named(self._loss.activation))
        return [h > 0 for h in tape.saved]
