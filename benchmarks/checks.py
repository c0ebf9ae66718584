"""``python -m benchmarks.checks``: what the checks cost, as shares of the training they watch, measured in one run.

Whole training runs of one epoch, with the every-step screen off and on by turns, for several widths; medians over the
repeats. Then one audit of 784-128-10, of a step that is right and of one that is wrong, and what the default schedule
of audits makes of that.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tqdm import tqdm

from lean_mnist.audit.gradcheck_piece import gradcheck_piece
from lean_mnist.audit.reference import NetworkLoss
from lean_mnist.audit.step_audit import StepAudit
from lean_mnist.command_line import parse, run_command
from lean_mnist.nn import MLP
from lean_mnist.nn.step import StepTape

CHECKS = ("off", "screen")
_SIZES: tuple[tuple[int, ...], ...] = ((128,), (1024,), (1024, 1024))


@dataclass(frozen=True)
class Arguments:
    """Measure what the checks cost."""

    repeats: int = 5
    """Runs of each kind; the median counts."""
    dataset: str = "auto"
    """mnist, where it is there; digits otherwise."""
    batch_size: int = 64
    """Examples a step."""
    examples: int = 20_000
    """Training examples of the one epoch."""
    threads: int = 0
    """PyTorch's threads; 0 leaves them as they are."""
    json: bool = False
    """Print one JSON document."""


@dataclass(frozen=True)
class Row:
    sizes: tuple[int, ...]
    check: str
    step_us: float  # median over the runs of the mean over the steps
    over_off: float  # median over the repeats of the ratio to the run without checks just before


def seconds_of_steps(arguments: Arguments, hidden: tuple[int, ...], check: str) -> tuple[tuple[int, ...], int, float]:
    """Sizes, steps and seconds of one run's training."""
    from lean_mnist.training.config import Config
    from lean_mnist.training.run import run

    options: dict[str, Any] = {
        "dataset": arguments.dataset,
        "hidden": hidden,
        "check": check,
        "batch_size": arguments.batch_size,
        "epochs": 1,
        "limit_train": arguments.examples,
        "validation_size": 100,
        "quiet": True,
        "run_name": "checks",
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        summary = run(Config(**options, runs_dir=f"{folder}/runs", checkpoints_dir=f"{folder}/checkpoints"))
    sizes = (summary.test.confusion.shape[0],)
    return (*hidden, *sizes), summary.state.step, summary.state.seconds


def measure_runs(arguments: Arguments, progress: tqdm[None]) -> list[Row]:
    """A row for each size and kind of checks; the kinds take turns within each repeat."""
    rows = []
    for hidden in _SIZES:
        times: dict[str, list[float]] = {check: [] for check in CHECKS}
        sizes: tuple[int, ...] = ()
        for _ in range(arguments.repeats):
            for check in CHECKS:
                sizes, steps, seconds = seconds_of_steps(arguments, hidden, check)
                times[check].append(seconds / steps)
                progress.update()
        for check in CHECKS:
            ratios = [ours / off for ours, off in zip(times[check], times["off"], strict=True)]
            rows.append(Row(sizes, check, 1e6 * statistics.median(times[check]), statistics.median(ratios)))
    return rows


def measure_audit(repeats: int = 20) -> dict[str, float]:
    """Milliseconds of one audit of 784-128-10 at batch 64: comparison, local checks and (of a right step) enclosure."""
    model = MLP((784, 128, 10), seed=0)
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(64, 784, generator=generator), torch.randint(0, 10, (64,), generator=generator)
    check = StepAudit(model)
    tape = StepTape(labels)
    loss = model.loss(x, labels, tape=tape)
    loss.backward()
    layers = [(w.detach(), None if b is None else b.detach()) for w, b in model.weights_and_biases()]

    def audit(gradcheck: bool = False) -> None:
        check.check([(x, labels)], loss.detach(), compare_gradients=True, gradcheck=gradcheck, tapes=[tape])

    found = {
        "right": _median_ms(audit, repeats),
        "right, with gradcheck": _median_ms(lambda: audit(gradcheck=True), repeats),
        "gradcheck alone, on its piece": _median_ms(
            lambda: gradcheck_piece(NetworkLoss.of(model), layers, x, labels), repeats
        ),
    }
    weight = model.weights_and_biases()[0][0]
    assert weight.grad is not None
    weight.grad *= 1.001
    found["wrong"] = _median_ms(audit, repeats)
    found["wrong, with gradcheck"] = _median_ms(lambda: audit(gradcheck=True), repeats)
    return found


def _median_ms(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def main() -> None:
    """Run and print two tables."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m benchmarks.checks")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tqdm(total=len(_SIZES) * len(CHECKS) * arguments.repeats, unit="run", file=sys.stderr) as progress:
        rows = measure_runs(arguments, progress)
    audit = measure_audit()
    if arguments.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "audit_ms": audit}))
        return
    threads, cores = torch.get_num_threads(), os.cpu_count()
    print(f"batch {arguments.batch_size}, {threads} threads on {cores} cores, PyTorch {torch.__version__}")
    print("network            check   step     over off")
    for row in rows:
        name = "-".join(map(str, row.sizes))
        print(f"{name:<17}  {row.check:<6}  {row.step_us:5.0f} µs  {row.over_off:6.3f}×")
    from lean_mnist.training.config import Config

    default, step_ms = Config(), rows[0].step_us / 1e3
    share = (
        audit["right"] / default.check_every + audit["gradcheck alone, on its piece"] / default.gradcheck_every
    ) / step_ms
    print(f"\none audit of 784-128-10; the default schedule is {share:.1%} of such steps")
    for what, milliseconds in audit.items():
        print(f"{what:<34} {milliseconds:7.1f} ms")


if __name__ == "__main__":
    run_command(main)
