"""Gates that compare a step's gradients with independent computations of them (:mod:`lean_mnist.audit`)."""

from __future__ import annotations

from collections.abc import Iterator

from lean_mnist.audit import (
    AuditResult,
    ComputedStep,
    GradcheckVerdict,
    RandomisedCheck,
    StepAudit,
    first_fault,
)
from lean_mnist.nn import MLP
from lean_mnist.training.config.schedules import Schedule
from lean_mnist.training.hooks.step import FailurePolicy, Step
from lean_mnist.training.sinks.records import Record, Scalar


def cause_of_not_finite(step: Step) -> str:
    """The first operation of the step that made what is not finite of finite numbers; empty if none did."""
    fault = first_fault(ComputedStep.of(step.model, step.batches, step.tapes)) if step.tapes else None
    return f": {fault.brief}" if fault is not None and fault.diagnosis.kind == "NaN" else ""


class CrossCheckHook:
    """Gate: compares a step's gradients with the float64 reference, runs gradcheck, and refuses a step that fails.

    ``policy`` says what happens to a step of ``model`` that fails; its summary counts what is found.
    """

    def __init__(self, model: MLP, compare_due: Schedule, gradcheck_due: Schedule, policy: FailurePolicy) -> None:
        self._check, self._policy = StepAudit(model), policy
        self._compare_due, self._gradcheck_due = compare_due, gradcheck_due

    def due(self, step: int) -> bool:
        """Whether one of the two is due."""
        return self._compare_due(step) or self._gradcheck_due(step)

    def on_gradients(self, step: Step) -> Iterator[Record]:
        """Records of both; raises ``GradientMismatch``."""
        compare, gradcheck = self._compare_due(step.number), self._gradcheck_due(step.number)
        result = self._check.check(
            step.batches, step.loss, compare_gradients=compare, gradcheck=gradcheck, tapes=step.tapes, past=step.past
        )
        self._policy.summary.add_comparison(step.number, result)
        yield from check_records(step.number, result)
        if not result.passed:
            yield from self._policy.refuse(step, result.message, result.details)


class ScreenHook:
    """Gate, every step: a randomised check of each identity of the step; of a step that fails, the full comparison.

    ``record_due`` is the schedule of its record, ``seed`` the probes'; the others as of ``CrossCheckHook``.
    """

    def __init__(self, model: MLP, record_due: Schedule, seed: int, policy: FailurePolicy) -> None:
        self._randomised, self._audit = RandomisedCheck(seed), StepAudit(model)
        self._record_due, self._policy = record_due, policy

    def due(self, step: int) -> bool:
        """Every step."""
        return True

    def on_gradients(self, step: Step) -> Iterator[Record]:
        """A record where due; raises ``GradientMismatch``."""
        result = self._randomised.again(step.number, step.tapes, step.loss_value) or self._randomised.check(
            step.number, ComputedStep.of(step.model, step.batches, step.tapes, step.loss)
        )
        self._policy.summary.add_screen(result)
        if self._record_due(step.number):
            yield Scalar(step.number, "screen/share_of_allowed", result.share)
        if result.passed:
            return
        audit = self._audit.check(
            step.batches, step.loss, compare_gradients=True, gradcheck=False, tapes=step.tapes, past=step.past
        )
        first, *more = result.failures
        others = f" (and {len(more)} more local check{'s' if len(more) > 1 else ''})" if more else ""
        found = "; ".join(filter(None, [audit.message, f"{first}{others}"]))
        details = "; ".join(filter(None, [audit.message, *map(str, result.failures)]))
        self._policy.summary.add_failure(step.number, found)
        yield Scalar(step.number, "screen/passed", 0.0)
        yield from self._policy.refuse(step, found, details)


def check_records(number: int, result: AuditResult) -> Iterator[Record]:
    """Records of a comparison or gradcheck at step ``number``."""
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
