"""The self-test on somebody else's Function: plant what fits anywhere and see that ``check_function`` refuses it."""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lean_mnist.crosscheck.bundles.names import named
from lean_mnist.errors import ArgumentError
from lean_mnist.mutants.cases import USES
from lean_mnist.mutants.corpus import MUTANTS
from lean_mnist.mutants.mutant import Mutant
from lean_mnist.mutants.planting import plant_in
from lean_mnist.mutants.report import Fate, MutantResult, Progress, SelftestReport
from lean_mnist.mutants.selftest import announced, refused

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
    arguments = list(made() if callable(made) else made)
    alarm = refused(function.apply, reference, arguments, seed)
    generic = [] if alarm else [mutant for mutant in mutants if mutant.generic and not mutant.ours_only]
    results = tuple(_try(function, mutant, reference, arguments, seed) for mutant in announced(generic, progress))
    alarms = (alarm.message,) if alarm else ()
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
