"""``python -m benchmarks.check_cost``: what ``check_function`` costs, in calls of the Function and in seconds, by rule.

Each case is a Function whose forwards and backwards are counted, whichever precision they run in; those of some rows
count by their share of the numbers, and are listed, too. Beside it stands what one forward and backward take, timed by
turns with the check.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lean_mnist.command_line import parse, run_command
from lean_mnist.crosscheck import check_function, rules


@dataclass(frozen=True)
class Arguments:
    """Measure what ``check_function`` costs."""

    sizes: tuple[int, ...] = (1_000, 1_000_000)
    """Elements of the elementwise Functions."""
    repeats: int = 3
    """Checks of each case; the median counts."""
    threads: int = 1
    """PyTorch's threads; 0 leaves them as they are."""
    rules: bool = False
    """Print a table of every rule, too."""
    detection: int = 0
    """Checks of SiLU with an error planted in its gradient, of each kind, instead of what right ones cost."""
    json: bool = False
    """Print one JSON document."""


calls: Counter[tuple[str, int]] = Counter()  # by kind, and numbers in the first input


def counted(kind: str, x: Tensor) -> None:
    """Count a call."""
    calls[kind, x.numel()] += 1


class SiLU(torch.autograd.Function):
    """``x σ(x)``, elementwise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        counted("forwards", x)
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        counted("backwards", x)
        s = x.sigmoid()
        return upstream[0] * (s + x * s * (1 - s))


class Product(torch.autograd.Function):
    """``x ⊙ y`` of two tensors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        counted("forwards", x)
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        counted("backwards", x)
        return upstream[0] * y, upstream[0] * x


class Affine(torch.autograd.Function):
    """``x Wᵀ + b``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        counted("forwards", x)
        ctx.save_for_backward(x, weight)
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        counted("backwards", x)
        return upstream[0] @ weight, upstream[0].T @ x, upstream[0].sum(0)


class Softmax(torch.autograd.Function):
    """Softmax over the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        counted("forwards", x)
        y = x.softmax(-1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        counted("backwards", y)
        weighted = upstream[0] * y
        return weighted - y * weighted.sum(-1, keepdim=True)


@dataclass(frozen=True)
class Case:
    name: str
    function: Callable[..., Any]
    reference: Callable[..., Any] | None
    shapes: tuple[tuple[int, ...], ...]

    def inputs(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(shape, generator=generator).requires_grad_() for shape in self.shapes]


@dataclass(frozen=True)
class Row:
    case: str
    forwards: float  # in calls of the whole
    backwards: float
    of_rows: int  # calls of some rows
    milliseconds: float  # of one check, median
    over_one: float  # in forwards and backwards, median of the ratio to the one just before
    rules: dict[str, tuple[float, float]]  # calls, and milliseconds of one check


def cases(sizes: tuple[int, ...]) -> list[Case]:
    """The elementwise Functions at every size, with and without a reference, then a linear layer and a softmax."""
    found = []
    for n in sizes:
        for words, reference in ((", reference", torch.nn.functional.silu), ("", None)):
            found.append(Case(f"SiLU {n:,}{words}", SiLU.apply, reference, ((n // 100, 100),)))
        found.append(Case(f"product {n:,}", Product.apply, None, ((n // 100, 100),) * 2))
    linear: tuple[tuple[int, ...], ...] = ((256, 512), (1024, 512), (1024,))
    found.append(Case("affine 512-1024, reference", Affine.apply, torch.nn.functional.linear, linear))
    found.append(Case("affine 512-1024", Affine.apply, None, linear))
    found.append(Case("softmax 1,000×1,000, reference", Softmax.apply, lambda x: x.softmax(-1), ((1000, 1000),)))
    found.append(Case("softmax 1,000×1,000", Softmax.apply, None, ((1000, 1000),)))
    return found


def work(whole: int, *kinds: str) -> float:
    """The calls so far, in calls with ``whole`` numbers in the first input."""
    return sum(count * numbers / whole for (kind, numbers), count in calls.items() if kind in kinds or not kinds)


def detected(size: int, trials: int) -> dict[str, int]:
    """Number of planted errors that are found, by kind, with and without a reference."""
    x = torch.randn((size // 100, 100), generator=torch.Generator().manual_seed(0)).requires_grad_()
    found: dict[str, int] = {}
    for kind in ("dense, 1e-3", "one element, 1e-3"):
        for words, reference in (("reference", torch.nn.functional.silu), ("no reference", None)):
            name = f"{kind}, {words}"
            found[name] = 0
            for trial in range(trials):
                generator = torch.Generator().manual_seed(trial)
                if kind.startswith("dense"):
                    factor = 1 + 1e-3 * torch.randn(x.shape, generator=generator)
                else:
                    factor = torch.ones(x.shape)
                    factor.view(-1)[int(torch.randint(size, (), generator=generator))] += 1e-3
                report = check_function(_wrong(factor), reference, [x], seed=trial, fast=True)
                found[name] += not report.ok
    return found


def _wrong(factor: Tensor) -> Callable[[Tensor], Tensor]:
    """SiLU, with its gradient times ``factor``."""

    class Wrong(SiLU):
        @staticmethod
        def backward(ctx: Any, *upstream: Tensor) -> Tensor:
            return SiLU.backward(ctx, *upstream) * factor.to(upstream[0].dtype)

    return Wrong.apply


@contextmanager
def by_rule(whole: int) -> Iterator[dict[str, tuple[float, float]]]:
    """Calls and milliseconds of every rule that is asked inside of the block."""
    spent: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))

    def counted(rule: rules.Rule) -> rules.Rule:
        def ask(ctx: Any) -> Any:
            before, started = work(whole), time.perf_counter()
            try:
                return rule.ask(ctx)
            finally:
                number, milliseconds = spent[rule.name]
                milliseconds += 1e3 * (time.perf_counter() - started)
                spent[rule.name] = number + work(whole) - before, milliseconds

        return replace(rule, ask=ask)

    as_they_are = rules.RULES
    rules.RULES = tuple(map(counted, as_they_are))
    try:
        yield spent
    finally:
        rules.RULES = as_they_are


def measure(case: Case, repeats: int) -> Row:
    """A row; the check and one forward and backward take turns."""
    inputs, ratios, times = case.inputs(), [], []
    whole = inputs[0].numel()
    upstream = torch.randn_like(case.function(*inputs))
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(5):
            torch.autograd.grad(case.function(*inputs), inputs, upstream)
        one = (time.perf_counter() - started) / 5
        calls.clear()
        started = time.perf_counter()
        with by_rule(whole) as spent:
            report = check_function(case.function, case.reference, inputs, seed=1)
        times.append(time.perf_counter() - started)
        ratios.append(times[-1] / one)
        if not report.ok:
            raise RuntimeError(f"{case.name}: {report}")
    of_rows = sum(count for (_, numbers), count in calls.items() if numbers < whole)
    milliseconds, ratio = 1e3 * statistics.median(times), statistics.median(ratios)
    return Row(case.name, work(whole, "forwards"), work(whole, "backwards"), of_rows, milliseconds, ratio, dict(spent))


def main() -> None:
    """Run and print a table."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m benchmarks.check_cost")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.detection:
        for name, number in detected(max(arguments.sizes), arguments.detection).items():
            print(f"{name:<31}  {number} of {arguments.detection}")
        return
    rows = [measure(case, arguments.repeats) for case in cases(arguments.sizes)]
    if arguments.json:
        print(json.dumps([vars(row) for row in rows]))
        return
    print(f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}")
    print("case                             calls  forwards  backwards  of some rows     check  over one of each")
    for row in rows:
        print(
            f"{row.case:<31}  {row.forwards + row.backwards:5.0f}  {row.forwards:8.0f}  {row.backwards:9.0f}"
            f"  {row.of_rows:12}  {row.milliseconds:5.0f} ms  {row.over_one:11.0f}×"
        )
        for name, (spent, milliseconds) in row.rules.items() if arguments.rules else ():
            print(f"  {name:<29}  {spent:5.0f}  {'':35}{milliseconds:5.0f} ms")


if __name__ == "__main__":
    run_command(main)
