"""Hooks: what looks at every step between the backward pass and the optimizer, and makes records of what it sees.

A hook says when it is due (``due(step)``) and, given the step, yields records. It never talks to a sink. A hook that
raises stops the run before the optimizer sees the gradients: that is the gate.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lean_mnist.audit import (
    AuditResult,
    ComputedStep,
    GradcheckVerdict,
    RandomisedCheck,
    RandomisedResult,
    StepAudit,
    first_fault,
)
from lean_mnist.errors import GradientMismatch, HealthError
from lean_mnist.nn import MLP
from lean_mnist.nn.step import StepTape
from lean_mnist.nn.update import has_finite_sum, not_finite
from lean_mnist.training.records import Notice, Record, Scalar
from lean_mnist.training.schedules import Due
from lean_mnist.training.state import CheckLedger

# LEAN_mnist's thresholds for the norm of one tensor's gradient.
EXPLODING, VANISHING = 10.0, 1e-4


@dataclass
class Step:
    """One step, its gradients ready in ``.grad`` and not yet applied. ``number`` counts from 1."""

    number: int
    model: MLP
    batches: list[tuple[Tensor, Tensor]]  # one, or several whose gradients were averaged
    loss: Tensor  # the mean over all their examples
    gradient: Tensor  # all of it, one vector
    learning_rate: float
    tapes: list[StepTape]  # one a batch; empty where nobody asked
    past: tuple[StepTape, ...] = ()  # of the steps before this one, the latest last

    @functools.cached_property
    def loss_value(self) -> float:
        """``loss``, off its device."""
        return float(self.loss)

    @property
    def gradient_norm(self) -> Tensor:
        """Of the whole gradient."""
        return torch.linalg.vector_norm(self.gradient)

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        """All examples of the step as one batch."""
        if len(self.batches) == 1:
            return self.batches[0]
        return torch.cat([x for x, _ in self.batches]), torch.cat([y for _, y in self.batches])


class Hook(Protocol):
    """Looks at the steps it is due at."""

    def due(self, step: int, /) -> bool:
        """Whether to look at this step."""

    def on_gradients(self, step: Step, /) -> Iterable[Record]:
        """Records of this step; raises to keep its gradients from the weights."""


class KeepFailure(Protocol):
    """Keeps what a failed check needs to be asked again."""

    def __call__(self, step: Step, message: str, /) -> str:
        """Write it; returns words that say where, for the end of the message."""


def keep_nothing(step: Step, message: str) -> str:
    """Where there is no run's folder to write to."""
    return ""


class HealthHook:
    """Every step: loss and gradients are finite. First step: the loss is near ln C, what knowing nothing costs.

    A gradient that is not finite, though it is computed from numbers that are, is a fault that ``keep`` is told of.
    """

    def __init__(self, keep: KeepFailure = keep_nothing) -> None:
        self._keep = keep

    def due(self, step: int) -> bool:
        return True

    def on_gradients(self, step: Step) -> Iterable[Record]:
        loss = step.loss_value
        if not (math.isfinite(loss) and has_finite_sum(step.gradient)):
            cause = _why(step) if math.isfinite(loss) else ""
            if message := not_finite(step.model, loss, step.number, cause):
                raise HealthError(message + (self._keep(step, message) if cause else ""))
        return self._first(loss, math.log(step.model.sizes[-1])) if step.number == 1 else ()

    def _first(self, loss: float, know_nothing: float) -> Iterator[Record]:
        yield Scalar(1, "health/initial_loss_over_ln_classes", loss / know_nothing if know_nothing else 1.0)
        if not know_nothing / 2 <= loss <= know_nothing * 2:
            yield Notice(
                1, "health/warning",
                f"the first loss is {loss:.3f}; that of guessing is ln C = {know_nothing:.3f}: "
                f"check the initialization and the scale of the inputs",
            )  # fmt: skip


def _why(step: Step) -> str:
    """The first link of the step that gave what is not finite for what is; empty if none did: training diverged."""
    fault = first_fault(ComputedStep.of(step.model, step.batches, step.tapes)) if step.tapes else None
    return f": {fault.brief}" if fault is not None and fault.diagnosis.kind == "NaN" else ""


class LossHook:
    """Loss and learning rate."""

    def __init__(self, due: Due) -> None:
        self.due = due

    def on_gradients(self, step: Step) -> Iterator[Record]:
        yield Scalar(step.number, "train/loss", step.loss_value)
        yield Scalar(step.number, "train/learning_rate", step.learning_rate)


class NormsHook:
    """Norms of each tensor and its gradient; one warning a tensor when a gradient explodes or vanishes.

    ``warned`` holds what has been warned of, so that a resumed run does not warn again.
    """

    def __init__(self, due: Due, warned: list[str]) -> None:
        self.due, self._warned = due, warned

    def on_gradients(self, step: Step) -> Iterator[Record]:
        names = [name for name, _ in step.model.named_parameters()]
        norms = torch.stack(
            [norm for p in step.model.parameters() for norm in (_norm(p.grad), _norm(p.detach()))]
        ).tolist()
        still_learning = step.loss_value > 0.1 * math.log(max(2, step.model.sizes[-1]))
        for name, gradient, parameter in zip(names, norms[::2], norms[1::2], strict=True):
            yield Scalar(step.number, f"gradient_norm/{name}", gradient)
            yield Scalar(step.number, f"parameter_norm/{name}", parameter)
            # A vanishing gradient is how training ends when the loss is small; before that it means nothing is learnt.
            if gradient > EXPLODING:
                yield from self._warn(step.number, name, f"exploding: its norm is {gradient:.3g}, above {EXPLODING:g}")
            elif gradient < VANISHING and still_learning:
                yield from self._warn(step.number, name, f"vanishing: its norm is {gradient:.3g}, below {VANISHING:g}")
        yield Scalar(step.number, "gradient_norm/all", float(step.gradient_norm))

    def _warn(self, number: int, name: str, what: str) -> Iterator[Record]:
        key = f"{name} {what.partition(':')[0]}"
        if key not in self._warned:
            self._warned.append(key)
            yield Notice(number, "health/warning", f"the gradient of {name} is {what}")


class CrossCheckHook:
    """The gate: compares this step's gradients with the reference, runs gradcheck, and stops a step that fails.

    With ``stop=False`` a failure is recorded and warned of, and training goes on. ``keep`` is told of every failure.
    """

    def __init__(
        self,
        model: MLP,
        compare_due: Due,
        gradcheck_due: Due,
        ledger: CheckLedger,
        stop: bool,
        keep: KeepFailure = keep_nothing,
    ) -> None:
        self._check = StepAudit(model)
        self._compare_due, self._gradcheck_due, self._ledger = compare_due, gradcheck_due, ledger
        self._stop, self._keep = stop, keep

    def due(self, step: int) -> bool:
        return self._compare_due(step) or self._gradcheck_due(step)

    def on_gradients(self, step: Step) -> Iterator[Record]:
        compare, gradcheck = self._compare_due(step.number), self._gradcheck_due(step.number)
        result = self._check.check(
            step.batches, step.loss, compare_gradients=compare, gradcheck=gradcheck, tapes=step.tapes, past=step.past
        )
        self._ledger.enter(step.number, result)
        yield from _check_records(step.number, result)
        if not result.passed:
            yield from _refuse(step, result.message, result.details, self._ledger, self._stop, self._keep)


class ScreenHook:
    """The gate at every step: verifies each link of the chain by probes; when one breaks, the audit gives values."""

    def __init__(
        self,
        model: MLP,
        record_due: Due,
        ledger: CheckLedger,
        stop: bool,
        seed: int,
        keep: KeepFailure = keep_nothing,
    ) -> None:
        self._randomised, self._audit = RandomisedCheck(seed), StepAudit(model)
        self._record_due, self._ledger, self._stop, self._keep = record_due, ledger, stop, keep

    def due(self, step: int) -> bool:
        return True

    def on_gradients(self, step: Step) -> Iterator[Record]:
        result = self._randomised.again(step.number, step.tapes, step.loss_value) or self._check(step)
        self._ledger.screened(result)
        if self._record_due(step.number):
            yield Scalar(step.number, "screen/share_of_allowed", result.share)
        if result.passed:
            return
        audit = self._audit.check(
            step.batches, step.loss, compare_gradients=True, gradcheck=False, tapes=step.tapes, past=step.past
        )
        first, *more = result.failures
        others = f" (and {len(more)} more link{'s' if len(more) > 1 else ''})" if more else ""
        found = "; ".join(filter(None, [audit.message, f"{first}{others}"]))
        details = "; ".join(filter(None, [audit.message, *map(str, result.failures)]))
        self._ledger.failed(step.number, found)
        yield Scalar(step.number, "screen/passed", 0.0)
        yield from _refuse(step, found, details, self._ledger, self._stop, self._keep)

    def _check(self, step: Step) -> RandomisedResult:
        return self._randomised.check(step.number, ComputedStep.of(step.model, step.batches, step.tapes, step.loss))


def _refuse(
    step: Step, found: str, details: str, ledger: CheckLedger, stop: bool, keep: KeepFailure
) -> Iterator[Record]:
    """Keep the failed step, with all ``details``; stop it, or warn of it."""
    head = f"gradient check failed at step {step.number}: "
    kept = keep(step, head + details)
    if stop:
        raise GradientMismatch(f"{head}{found}; the step was not applied{kept}")
    # The first failure, the tenth, the hundredth …: a run that goes on wrong fails at every step.
    if str(ledger.failures).rstrip("0") == "1":
        count = "" if ledger.failures == 1 else f" (failure {ledger.failures:,} of this run)"
        yield Notice(step.number, "crosscheck/warning", f"{head}{found}{count}{kept}")


def _check_records(number: int, result: AuditResult) -> Iterator[Record]:
    for divergence in result.divergences:
        yield Scalar(number, f"divergence/{divergence.name}", divergence.value)
    for bound in result.bounds:
        yield Scalar(number, f"error_bound/{bound.name}", bound.relative.upper)
    if result.largest is not None:
        yield Scalar(number, "divergence/largest", max(d.value for d in result.divergences[1:]))
        yield Scalar(number, "crosscheck/share_of_allowed", result.largest.share)
        yield Scalar(number, "crosscheck/kinks", result.kinks)
    if result.gradcheck is not None and result.gradcheck.verdict is not GradcheckVerdict.KINK:
        yield Scalar(number, "crosscheck/gradcheck_passed", float(result.gradcheck.passed))
    yield Scalar(number, "crosscheck/passed", float(result.passed))
    yield Scalar(number, "crosscheck/seconds", result.seconds)


def _norm(tensor: Tensor | None) -> Tensor:
    return torch.zeros(()) if tensor is None else tensor.norm()
