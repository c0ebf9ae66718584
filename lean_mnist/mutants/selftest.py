"""The self-test: plant every mutant in this package's own backward and see that the checks of a run refuse it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from lean_mnist.crosscheck.diagnosis.likely import likely_kind
from lean_mnist.crosscheck.function_check import check_function
from lean_mnist.mutants.cases import cases
from lean_mnist.mutants.conditions import CONDITIONS
from lean_mnist.mutants.corpus import MUTANTS
from lean_mnist.mutants.mutant import Mutant
from lean_mnist.mutants.planting import planted
from lean_mnist.mutants.report import OURS, Outcome, Progress, SelftestReport
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
    outcomes = []
    for done, mutant in enumerate(mutants):
        if progress is not None:
            progress(done, len(mutants), mutant.name)
        outcomes.append(try_mutant(mutant, seed=seed, steps=steps, audit_every=audit_every))
    if progress is not None:
        progress(len(mutants), len(mutants), "")
    seconds = time.perf_counter() - started
    return SelftestReport(OURS, tuple(outcomes), tuple(false_alarms), controls, seconds, seed)


def try_mutant(mutant: Mutant, *, seed: int = 0, steps: int = STEPS, audit_every: int = AUDIT_EVERY) -> Outcome:
    """Plant one mutant; see :func:`run_selftest`."""
    condition = CONDITIONS[mutant.condition]
    if not condition.training:
        outcome = _try_cases(mutant, seed)
        if outcome.caught:
            return outcome
    try:
        with planted(mutant) as plant:
            run = train_and_check(
                plant, condition.network, seed=seed, steps=steps, audit_every=audit_every, dtype=condition.dtype
            )
    except (RuntimeError, IndexError, ValueError) as error:
        return Outcome(mutant, "caught", "training", ("an exception",), f"{type(error).__name__}: {error}")
    finding = run.finding
    if finding is not None:
        late = run.shown_at is not None and finding.step > run.shown_at
        return Outcome(
            mutant,
            "late" if late else "caught",
            f"step {finding.step}" + (f", wrong from step {run.shown_at}" if late else ""),
            finding.checks,
            finding.message,
            run.shown_at,
            finding.step,
            finding.kind,
        )
    if run.shown_at is not None:
        message = f"the gradients are wrong from step {run.shown_at} on"
        return Outcome(mutant, "escaped", message=message, shown_at=run.shown_at)
    if not condition.training:
        return outcome
    return Outcome(mutant, "not shown", message=f"no gradient was wrong in {run.steps} steps")


def _try_cases(mutant: Mutant, seed: int) -> Outcome:
    # The case that brings the condition about comes first; the others follow, since a fault may show elsewhere too.
    for case in sorted(cases(), key=lambda case: case.condition != mutant.condition):
        with planted(mutant):
            found = refused(case.function, case.reference, case.inputs, seed)
        if found is not None:
            return Outcome(mutant, "caught", case.name, ("check_function",), found.message, kind=found.kind)
    return Outcome(mutant, "escaped", message="check_function passes every case")


class Refusal(NamedTuple):
    """Why ``check_function`` refuses a function, in one line, and the likely class of the fault."""

    message: str
    kind: str = ""


def refused(function: Any, reference: Any, inputs: Any, seed: int) -> Refusal | None:
    """What ``check_function`` has against a function; ``None`` if nothing."""
    try:
        report = check_function(function, reference, inputs, seed=seed)
    except (RuntimeError, IndexError, ValueError) as error:
        return Refusal(f"{type(error).__name__}: {' '.join(str(error).split())}")
    if report.ok:
        return None
    lines = [line.strip() for line in str(report).splitlines()]
    line = next((line for line in lines[1:] if "FAILED" in line or "failed" in line), lines[0])
    return Refusal(line, likely_kind(report.findings) or "")


def refusal(function: Any, reference: Any, inputs: Any, seed: int) -> str:
    """Why ``check_function`` refuses a function, in one line; empty if it does not."""
    found = refused(function, reference, inputs, seed)
    return "" if found is None else found.message


def _control(mutants: Sequence[Mutant], seed: int, steps: int, audit_every: int) -> tuple[list[str], int]:
    alarms, controls = [], 0
    runs = dict.fromkeys((CONDITIONS[m.condition].network, CONDITIONS[m.condition].dtype) for m in mutants)
    for network, dtype in runs:
        run = train_and_check(None, network, seed=seed, steps=steps, audit_every=audit_every, dtype=dtype)
        controls += run.steps
        if run.finding is not None:
            alarms.append(f"step {run.finding.step} of {network}: {run.finding.message}")
    for case in cases():
        controls += 1
        message = refusal(case.function, case.reference, case.inputs, seed)
        if message:
            alarms.append(f"{case.name}: {message}")
    return alarms, controls
