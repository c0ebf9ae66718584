"""The self-test: plant every mutant in this package's own backward and see that the checks of a run refuse it.

Whole Functions, right and faulty, are put to ``check_function`` and its like.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from lean_mnist.crosscheck.function_check import check_function
from lean_mnist.crosscheck.report import Report
from lean_mnist.mutants.cases import cases
from lean_mnist.mutants.conditions import CONDITIONS
from lean_mnist.mutants.corpus import FUNCTION_MUTANTS, MUTANTS
from lean_mnist.mutants.mutant import Mutant, PlantedBug
from lean_mnist.mutants.planting import planted
from lean_mnist.mutants.report import OURS, Fate, MutantResult, Progress, SelftestReport
from lean_mnist.mutants.training import STEPS, CheckFailure, train_and_check
from lean_mnist.mutants.whole_function import FunctionMutant

Bug = TypeVar("Bug", bound=PlantedBug)


def run_selftest(
    mutants: Sequence[PlantedBug] = (*MUTANTS, *FUNCTION_MUTANTS),
    *,
    seed: int = 0,
    steps: int = STEPS,
    progress: Progress | None = None,
) -> SelftestReport:
    """Plant each of ``mutants`` in the chain rule, train with the checks of a run, and report what caught it.

    A network learns the digits of scikit-learn for ``steps`` steps: the screen at every one, the audit (comparison,
    and at the first step gradcheck) at the first and every ``AUDIT_EVERY``-th. What no training step shows (an upstream
    gradient in another layout, a frozen parameter) is put to ``check_function``. A mutant must be refused at the latest
    at the first step at which it shows. As a control everything runs once with nothing planted.

    Nothing else may train in this process meanwhile: the mutants are planted in the chain rule itself.
    """
    started = time.perf_counter()
    false_alarms, controls = _control(mutants, seed, steps)
    results = tuple(try_mutant(mutant, seed=seed, steps=steps) for mutant in announced(mutants, progress))
    return SelftestReport(OURS, results, tuple(false_alarms), controls, time.perf_counter() - started, seed)


def announced(mutants: Sequence[Bug], progress: Progress | None) -> Iterator[Bug]:
    """The mutants in turn, of each of which ``progress`` is told before."""
    for done, mutant in enumerate(mutants):
        if progress is not None:
            progress(done, len(mutants), mutant.name)
        yield mutant
    if progress is not None:
        progress(len(mutants), len(mutants), "")


def try_mutant(mutant: PlantedBug, *, seed: int = 0, steps: int = STEPS) -> MutantResult:
    """Plant one mutant; see :func:`run_selftest`."""
    if isinstance(mutant, FunctionMutant):
        return _try_function(mutant, seed)
    assert isinstance(mutant, Mutant), mutant
    if CONDITIONS[mutant.condition].training:
        return _try_training(mutant, seed, steps)
    in_calls = _try_calls(mutant, seed)
    if in_calls.caught:
        return in_calls
    in_training = _try_training(mutant, seed, steps)
    return in_calls if in_training.fate is Fate.NOT_SHOWN else in_training


def _try_training(mutant: Mutant, seed: int, steps: int) -> MutantResult:
    condition = CONDITIONS[mutant.condition]
    try:
        with planted(mutant) as plant:
            run = train_and_check(plant, condition.network, seed=seed, steps=steps, dtype=condition.dtype)
    except (RuntimeError, IndexError, ValueError) as error:
        message = f"{type(error).__name__}: {error}"
        return MutantResult(mutant, Fate.CAUGHT, "training", ("an exception",), message)
    shown_at = run.shown_at
    if run.failure is not None:
        late = shown_at is not None and run.steps > shown_at
        where = f"step {run.steps}" + (f", wrong from step {shown_at}" if late else "")
        return MutantResult(mutant, Fate.LATE if late else Fate.CAUGHT, where, *run.failure, shown_at, run.steps)
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
            return MutantResult(mutant, Fate.CAUGHT, case.name, *found)
    return MutantResult(mutant, Fate.ESCAPED, message="check_function passes every case")


def _try_function(mutant: FunctionMutant, seed: int) -> MutantResult:
    """The right function must pass, so that what is refused of the faulty one is its fault."""
    report = mutant.report(True, seed)
    if not report.failures:
        return MutantResult(mutant, Fate.ESCAPED, message=f"{mutant.check.__name__}: {report.verdict.value}")
    return MutantResult(mutant, Fate.CAUGHT, mutant.check.__name__, *_failure(report, mutant.check.__name__))


def refused(function: Any, reference: Any, inputs: Any, seed: int) -> CheckFailure | None:
    """Objection of ``check_function`` to a function, which may raise; ``None`` if it passes."""
    try:
        report = check_function(function, reference, inputs, seed=seed, fail_on="warning")
    except (RuntimeError, IndexError, ValueError) as error:
        return CheckFailure(("check_function",), f"{type(error).__name__}: {' '.join(str(error).split())}")
    return _failure(report) if report.failures else None


def _failure(report: Report, check: str = "check_function") -> CheckFailure:
    return CheckFailure((check,), str(report.failures[0]).splitlines()[0], report.likely_kind)


def _control(mutants: Sequence[PlantedBug], seed: int, steps: int) -> tuple[list[str], int]:
    """Alarms with nothing planted, and the number of times that checks were run."""
    alarms, controls = [], 0
    conditions = [CONDITIONS[mutant.condition] for mutant in mutants if isinstance(mutant, Mutant)]
    runs = dict.fromkeys((condition.network, condition.dtype) for condition in conditions)
    for network, dtype in runs:
        run = train_and_check(None, network, seed=seed, steps=steps, dtype=dtype)
        controls += run.steps
        if run.failure is not None:
            alarms.append(f"step {run.steps} of {network}: {run.failure.message}")
    for case in cases() if runs else ():
        controls += 1
        found = refused(case.function, case.reference, case.inputs, seed)
        if found is not None:
            alarms.append(f"{case.name}: {found.message}")
    for mutant in mutants:
        if isinstance(mutant, FunctionMutant):
            controls += 1
            report = mutant.report(False, seed)
            if not report.ok:
                said = str(report.failures[0]) if report.failures else report.verdict.value
                alarms.append(f"{mutant.name}, right: {said}")
    return alarms, controls
