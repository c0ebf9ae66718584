"""The self-test: plant every mutant in this package's own backward and see that the checks of a run refuse it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.crosscheck.function_check import check_function
from lean_mnist.mutants.cases import cases
from lean_mnist.mutants.conditions import CONDITIONS
from lean_mnist.mutants.corpus import MUTANTS
from lean_mnist.mutants.mutant import Mutant
from lean_mnist.mutants.planting import planted
from lean_mnist.mutants.report import OURS, Fate, MutantResult, Progress, SelftestReport
from lean_mnist.mutants.training import AUDIT_EVERY, STEPS, train_and_check


def run_selftest(
    mutants: Sequence[Mutant] = MUTANTS,
    *,
    seed: int = 0,
    steps: int = STEPS,
    audit_every: int = AUDIT_EVERY,
    progress: Progress | None = None,
) -> SelftestReport:
    """Plant each of ``mutants`` in the chain rule, train with the checks of a run, and report what caught it.

    A network learns the digits of scikit-learn for ``steps`` steps: the screen at every one, the audit (comparison,
    and at the first step gradcheck) at the first and every ``audit_every``-th. What no training step shows (an upstream
    gradient in another layout, a frozen parameter) is put to ``check_function``. A mutant must be refused at the latest
    at the first step at which it shows. As a control everything runs once with nothing planted.

    Nothing else may train in this process meanwhile: the mutants are planted in the chain rule itself.
    """
    started = time.perf_counter()
    false_alarms, controls = _control(mutants, seed, steps, audit_every)
    results = []
    for done, mutant in enumerate(mutants):
        if progress is not None:
            progress(done, len(mutants), mutant.name)
        results.append(try_mutant(mutant, seed=seed, steps=steps, audit_every=audit_every))
    if progress is not None:
        progress(len(mutants), len(mutants), "")
    seconds = time.perf_counter() - started
    return SelftestReport(OURS, tuple(results), tuple(false_alarms), controls, seconds, seed)


def try_mutant(mutant: Mutant, *, seed: int = 0, steps: int = STEPS, audit_every: int = AUDIT_EVERY) -> MutantResult:
    """Plant one mutant; see :func:`run_selftest`."""
    training = CONDITIONS[mutant.condition].training
    in_calls = None if training else _try_calls(mutant, seed)
    if in_calls is not None and in_calls.caught:
        return in_calls
    in_training = _try_training(mutant, seed, steps, audit_every)
    return in_calls if in_calls is not None and in_training.fate is Fate.NOT_SHOWN else in_training


def _try_training(mutant: Mutant, seed: int, steps: int, audit_every: int) -> MutantResult:
    condition = CONDITIONS[mutant.condition]
    try:
        with planted(mutant) as plant:
            run = train_and_check(
                plant, condition.network, seed=seed, steps=steps, audit_every=audit_every, dtype=condition.dtype
            )
    except (RuntimeError, IndexError, ValueError) as error:
        message = f"{type(error).__name__}: {error}"
        return MutantResult(mutant, Fate.CAUGHT, "training", ("an exception",), message)
    caught, shown_at = run.failure, run.shown_at
    if caught is not None:
        late = shown_at is not None and caught.step > shown_at
        where = f"step {caught.step}" + (f", wrong from step {shown_at}" if late else "")
        fate = Fate.LATE if late else Fate.CAUGHT
        return MutantResult(mutant, fate, where, caught.checks, caught.message, shown_at, caught.step, caught.kind)
    if shown_at is not None:
        message = f"the gradients are wrong from step {shown_at} on"
        return MutantResult(mutant, Fate.ESCAPED, message=message, shown_at=shown_at)
    return MutantResult(mutant, Fate.NOT_SHOWN, message=f"no gradient was wrong in {run.steps} steps")


def _try_calls(mutant: Mutant, seed: int) -> MutantResult:
    # The case that brings the condition about comes first; the others follow, since a fault may show elsewhere too.
    for case in sorted(cases(), key=lambda case: case.condition != mutant.condition):
        with planted(mutant):
            found = refused(case.function, case.reference, case.inputs, seed)
        if found is not None:
            checks = ("check_function",)
            return MutantResult(mutant, Fate.CAUGHT, case.name, checks, found.message, kind=found.kind)
    return MutantResult(mutant, Fate.ESCAPED, message="check_function passes every case")


class Refusal(NamedTuple):
    """Reason for which ``check_function`` refuses a function, in one line, and the likely class of the fault."""

    message: str
    kind: Kind | None = None


def refused(function: Any, reference: Any, inputs: Any, seed: int) -> Refusal | None:
    """Objection of ``check_function`` to a function, which may raise; ``None`` if it passes."""
    try:
        report = check_function(function, reference, inputs, seed=seed)
    except (RuntimeError, IndexError, ValueError) as error:
        return Refusal(f"{type(error).__name__}: {' '.join(str(error).split())}")
    if report.ok:
        return None
    return Refusal(str(report.failures[0]).splitlines()[0], report.likely_kind)


def _control(mutants: Sequence[Mutant], seed: int, steps: int, audit_every: int) -> tuple[list[str], int]:
    """Alarms with nothing planted, and the number of times that checks were run."""
    alarms, controls = [], 0
    runs = dict.fromkeys((CONDITIONS[m.condition].network, CONDITIONS[m.condition].dtype) for m in mutants)
    for network, dtype in runs:
        run = train_and_check(None, network, seed=seed, steps=steps, audit_every=audit_every, dtype=dtype)
        controls += run.steps
        if run.failure is not None:
            alarms.append(f"step {run.failure.step} of {network}: {run.failure.message}")
    for case in cases():
        controls += 1
        found = refused(case.function, case.reference, case.inputs, seed)
        if found is not None:
            alarms.append(f"{case.name}: {found.message}")
    return alarms, controls
