"""The self-tests: plant mutants in this package's own backward, or in your Function, and see the checks refuse them.

Whole Functions, right and faulty, are put to ``check_function`` and its like.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function

from lean_mnist.crosscheck.bundles.names import named
from lean_mnist.crosscheck.function_check import check_function
from lean_mnist.crosscheck.report import Report
from lean_mnist.errors import ArgumentError
from lean_mnist.mutants.corpus import FUNCTION_MUTANTS, MUTANTS
from lean_mnist.mutants.mutant import Mutant, PlantedBug
from lean_mnist.mutants.planting import plant_in, planted
from lean_mnist.mutants.report import OURS, Fate, MutantResult, Progress, SelftestReport
from lean_mnist.mutants.situations import CONDITIONS, USES, cases
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

    What no training step shows (an upstream gradient in another layout, a frozen parameter) is put to
    ``check_function``. A mutant must be refused at the latest at the first step at which it shows. As a control
    everything runs once with nothing planted. Nothing else may train in this process meanwhile.
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


ATTEMPTS = 3  # of check_function, since some mutants are wrong now and then only
CALLS = 50


def for_target(
    target: str, *, mutants: Sequence[Mutant] = MUTANTS, seed: int = 0, progress: Progress | None = None
) -> SelftestReport:
    """Plant the generic mutants in an ``autograd.Function`` and report which ``check_function`` catches.

    ``target`` is ``"module:Function"`` or ``"file.py:Function"``. The module in which that is defined also has
    ``reference``, the same in plain PyTorch, and ``inputs``, the arguments of ``apply`` or a function that makes them.

    A mutant that makes no difference to this Function, whatever is tried, is reported as not shown and not counted.
    Raises ``ArgumentError`` if something is not there or is not what it should be.
    """
    started = time.perf_counter()
    function = named(target, "target")
    if not (isinstance(function, type) and issubclass(function, Function)):
        raise ArgumentError(f"target: expected a subclass of torch.autograd.Function, found {function!r}")
    reference, made = (named(f"{function.__module__}:{name}", name) for name in ("reference", "inputs"))
    try:
        arguments = made() if callable(made) else made
    except Exception as error:
        raise ArgumentError(f"inputs: the function that makes them raised {type(error).__name__}: {error}") from error
    if not isinstance(arguments, (list, tuple)):
        raise ArgumentError(f"inputs: expected a list of the arguments of apply, found {type(arguments).__name__}")
    report = check_function(function.apply, reference, list(arguments), seed=seed, fail_on="warning")
    alarms = (_failure(report).message,) if report.failures else ()
    generic = [] if alarms else [mutant for mutant in mutants if mutant.generic and not mutant.ours_only]
    results = tuple(_try(function, mutant, reference, list(arguments), seed) for mutant in announced(generic, progress))
    return SelftestReport(target, results, alarms, 1, time.perf_counter() - started, seed)


def _try(function: type[Function], mutant: Mutant, reference: Any, inputs: list[Any], seed: int) -> MutantResult:
    faulty = plant_in(function, mutant)  # once: a fault that remembers goes on remembering
    for attempt in range(ATTEMPTS):
        found = refused(faulty.apply, reference, inputs, seed + attempt)
        if found is not None:
            return MutantResult(mutant, Fate.CAUGHT, "the given inputs", *found)
    if _same(_observe(function, inputs), _observe(plant_in(function, mutant), inputs)):
        message = "it makes no difference to this Function on these inputs"
        return MutantResult(mutant, Fate.NOT_SHOWN, message=message)
    message = f"its gradients differ, and check_function passes it {ATTEMPTS} times"
    return MutantResult(mutant, Fate.ESCAPED, message=message)


_CALLS: tuple[dict[str, Any], ...] = (
    *({"seed": seed} for seed in range(CALLS)),
    *({"use": use} for _, _, use in USES),
    *({option: True} for option in ("autocast", "again", "twice")),
    *({"use": torch.sum, "seed": seed} for seed in range(2)),
)


def _observe(function: type[Function], inputs: list[Any]) -> list[Any]:
    """Everything that callers can see of a backward, in every way that a mutant of the corpus shows."""
    seen: list[Any] = []
    for call in _CALLS:
        try:
            seen += _gradients(function, inputs, **call)
        except (RuntimeError, IndexError, ValueError) as error:
            seen.append(str(error))
    return seen


def _gradients(
    function: type[Function],
    inputs: list[Any],
    *,
    seed: int = 0,
    use: Callable[[Tensor], Tensor] = lambda y: y,
    autocast: bool = False,
    again: bool = False,
    twice: bool = False,
) -> list[Tensor]:
    """Gradients, and upstream gradients after the call, drawn from ``seed``.

    ``again``: of the second of two backward passes; ``twice``: of the squares of the gradients.
    """
    generator = torch.Generator().manual_seed(seed)
    fresh = [x.detach().clone().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in inputs]
    with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
        result = function.apply(*fresh)
        results = [result] if isinstance(result, Tensor) else list(result)
        outputs = [use(y) for y in results if isinstance(y, Tensor) and y.requires_grad]
        upstream = [torch.randn(y.shape, generator=generator).to(y.device, y.dtype) for y in outputs]
        wanted = [x for x in fresh if isinstance(x, Tensor) and x.requires_grad]
        if again:
            torch.autograd.grad(outputs, wanted, upstream, retain_graph=True, allow_unused=True)
        found = torch.autograd.grad(outputs, wanted, upstream, create_graph=twice, allow_unused=True)
        gradients = [g for g in found if g is not None]
        if twice:
            total = torch.stack([g.square().sum() for g in gradients]).sum()
            gradients = [g for g in torch.autograd.grad(total, wanted, allow_unused=True) if g is not None]
    return [g.detach().clone() for g in (*gradients, *upstream)]


def _same(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else type(a) is type(b) and a == b
        for a, b in zip(first, second, strict=True)
    )
