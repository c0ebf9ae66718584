"""Hooks: are loss and gradients finite, are they right (:mod:`lean_mnist.audit`)?"""

import math
from collections.abc import Iterable, Iterator

from lean_mnist.audit.diagnosis import first_fault
from lean_mnist.audit.gradcheck_piece import GradcheckVerdict
from lean_mnist.audit.local_checks import ComputedStep
from lean_mnist.audit.native_screen import NativeScreen
from lean_mnist.audit.randomised import RandomisedCheck
from lean_mnist.audit.step_audit import AuditResult, StepAudit
from lean_mnist.crosscheck.comparison import or_infinity
from lean_mnist.errors import HealthError
from lean_mnist.nn import MLP
from lean_mnist.nn.engine.graph import GraphEngine
from lean_mnist.nn.engine.native import NativeEngine
from lean_mnist.nn.step import Step
from lean_mnist.nn.update import not_finite
from lean_mnist.training.config.schedules import Schedule
from lean_mnist.training.hooks.graph_screen import GraphScreen
from lean_mnist.training.hooks.memory import MemoryGuard
from lean_mnist.training.hooks.step import FailurePolicy
from lean_mnist.training.sinks.records import Figure, Notice, Record, Scalar

_TRANSIENT = "something stood out in this step, and does not when it is computed again: a transient fault, not applied"


class HealthHook:
    """Gate, every step: loss and gradients are finite. First step: the loss is near that of guessing.

    ``guessing`` is ``ln C`` for C classes, ``None`` where there is no such loss. A step in which an operation made what
    is not finite of finite numbers, where training has not diverged, is kept.
    """

    def __init__(self, guessing: float | None, policy: FailurePolicy) -> None:
        self._guessing, self._policy = guessing, policy

    def due(self, step: int) -> bool:
        """Every step."""
        return True

    def on_gradients(self, step: Step) -> Iterable[Record]:
        """Raises ``HealthError`` naming the tensor; records of the first step."""
        loss = step.loss_value
        if not step.is_finite:
            cause = cause_of_not_finite(step) if math.isfinite(loss) else ""
            if message := not_finite(step.model, loss, step.number, cause):
                raise HealthError(message + (self._policy.keep(step, message) if cause else ""))
        return self._first(loss, self._guessing) if step.number == 1 and self._guessing is not None else ()

    def _first(self, loss: float, guessing: float) -> Iterator[Record]:
        yield Figure(1, "health/initial_loss_over_ln_classes", loss / guessing if guessing else 1.0)
        if not guessing / 2 <= loss <= guessing * 2:
            yield Notice(
                1, "health/warning",
                f"the first loss is {loss:.3f}; that of guessing is ln C = {guessing:.3f}: "
                f"check the initialization and the scale of the inputs",
            )  # fmt: skip


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
        """True if one of the two is due."""
        return self._compare_due(step) or self._gradcheck_due(step)

    def on_gradients(self, step: Step) -> Iterator[Record]:
        """Records of both; raises ``GradientMismatch``."""
        compare, gradcheck = self._compare_due(step.number), self._gradcheck_due(step.number)
        result = self._check.check(
            step.batches, step.loss, compare_gradients=compare, gradcheck=gradcheck, tapes=step.tapes, past=step.past
        )
        yield from judged(step, result, self._policy)


class ScreenHook:
    """Gate, every step: a randomised check of each identity of the step; of a step that fails, the full comparison.

    ``record_due`` is the schedule of its record, ``seed`` the probes'; the others as of ``CrossCheckHook``.
    """

    def __init__(self, model: MLP, record_due: Schedule, seed: int, policy: FailurePolicy) -> None:
        self._randomised, self._audit, self._network = RandomisedCheck(seed), StepAudit(model), model
        self._record_due, self._policy = record_due, policy
        self._native: NativeScreen | None = None
        self._guard: MemoryGuard | None = None
        self._in_engine = False  # whether it screens the steps of its chunks
        self._stood_out = 0  # number of the step at which a chunk ended because something did

    def due(self, step: int) -> bool:
        """Every step, or where the engine screens those in between, at those that are looked at row by row."""
        return not self._in_engine or self._randomised.per_row(step)

    def look_back(self, taken: int, stood_out: int, seconds: float) -> None:
        """Count the steps that an engine screened and took, and remember the number of one that stood out, or 0."""
        self._policy.summary.add_screens(taken, seconds)
        self._stood_out = stood_out

    def stand_in(self, engine: NativeEngine | GraphEngine, guard: MemoryGuard | None) -> None:
        """Let ``engine`` screen the steps of a chunk itself, and do what ``guard`` does."""
        self._in_engine, self._guard = True, guard
        if guard is not None:
            guard.in_engine = True
        if isinstance(engine, GraphEngine):
            engine.screen = lambda: GraphScreen(self._network, self._randomised, guard, self.look_back)
            return
        self._native = NativeScreen(engine)
        if guard is not None:
            self._native.watch_sums(engine.feature_sums)
        self._randomised.stand_in(self._native)
        engine.screen = self
        self.function, self.state, self.watches_memory = self._native.function, self._native.state, guard is not None

    def enter(self, step: int) -> None:
        """Before a chunk from number ``step`` on; raises ``MemoryFault`` where what rests was changed."""
        if self._guard is not None:
            self._guard.compare_at_rest(step)

    def begin(self, step: int, steps: int) -> int:
        """Before the engine takes steps from number ``step`` on; returns how many it may."""
        return self._randomised.begin(step, steps)

    def end(self, step: int, taken: int, stood_out: bool, seconds: float) -> None:
        """Count the steps that the engine took; raises ``MemoryFault`` where what rests was changed."""
        assert self._native is not None
        block = self._native.changed_block
        self.look_back(taken, step + taken if stood_out and block is None else 0, seconds)
        if block is not None:
            self.changed(step + taken, block)

    def changed(self, step: int, block: int) -> None:
        """Lay it to the memory; raises ``MemoryFault``."""
        assert self._guard is not None
        self._guard.blame(step, block)

    def on_gradients(self, step: Step) -> Iterator[Record]:
        """A record where due; raises ``GradientMismatch``."""
        # One that the engine held was screened there by several threads: what is recorded is from one, always the same.
        result = self._randomised.check(step.number, ComputedStep.of(step.model, step.batches, step.tapes, step.loss))
        self._policy.summary.add_screen(result)
        if self._stood_out == step.number and not result.stood_out:
            self._policy.summary.transient += 1
            yield Notice(step.number, "screen/transient", _TRANSIENT)
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


def judged(step: Step, result: AuditResult, policy: FailurePolicy) -> Iterator[Record]:
    """Count a comparison or gradcheck of ``step``; its records; raises ``GradientMismatch``."""
    number = step.number
    policy.summary.add_comparison(number, result)
    for divergence in result.divergences:
        yield Scalar(number, f"divergence/{divergence.name}", divergence.value)
    for bound in result.bounds:
        yield Scalar(number, f"error_bound/{bound.name}", bound.relative)
    if result.bounds:
        yield Scalar(number, "error_bound/largest", max(bound.relative for bound in result.bounds))
    if result.largest is not None:
        yield Scalar(number, "divergence/largest", max((d.value for d in result.divergences[1:]), key=or_infinity))
        yield Scalar(number, "crosscheck/share_of_allowed", result.largest.share)
        yield Scalar(number, "crosscheck/kinks", result.kinks)
    if result.gradcheck is not None and result.gradcheck.verdict is not GradcheckVerdict.KINK:
        yield Scalar(number, "crosscheck/gradcheck_passed", float(result.gradcheck.passed))
    yield Scalar(number, "crosscheck/passed", float(result.passed))
    yield Scalar(number, "crosscheck/seconds", result.seconds)
    if not result.passed:
        yield from policy.refuse(step, result.message, result.details)
