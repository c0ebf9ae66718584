"""``python -m benchmarks.scaling``: what a run costs as it grows, in seconds and in memory.

One thing is varied at a time: examples, batch, width, depth, threads, precision, processes. Every row is a run of its
own, ``python -m lean_mnist.train`` as a user starts it; its time is what its summary says an epoch took, its memory the
most that the process held, less what one holds that only has imported everything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lean_mnist.command_line import parse, run_command


@dataclass(frozen=True)
class Arguments:
    """Time runs of growing size."""

    dataset: str = "mnist"
    """Data set of every run."""
    examples: int = 12_000
    """Training examples, where these are not what is varied."""
    only: str = ""
    """Rows whose names contain this."""
    json: bool = False
    """Print one JSON document."""


@dataclass(frozen=True)
class Row:
    """A run: its name, options beside the common ones, threads and processes."""

    name: str
    options: tuple[str, ...] = ()
    threads: int = 2
    processes: int = 1
    examples: int | None = None


def rows() -> list[Row]:
    """Every run, the plain one first."""
    return [
        Row("784-128-10, batch 64"),
        *(Row(f"examples {n:,}", examples=n) for n in (3_000, 6_000, 24_000, 48_000)),
        *(Row(f"batch {n}", ("--batch-size", str(n))) for n in (16, 128, 256, 1024)),
        *(Row(f"width {n}", ("--hidden", str(n))) for n in (256, 512, 1024, 2048, 4096)),
        *(Row(f"{n} hidden layers of 128", ("--hidden", *["128"] * n)) for n in (2, 4, 8)),
        Row("one thread", threads=1),
        Row("two processes of one thread", threads=1, processes=2),
        Row("bfloat16, width 128", ("--precision", "bfloat16")),
        Row("bfloat16, width 1024", ("--precision", "bfloat16", "--hidden", "1024")),
        Row("float64", ("--precision", "float64")),
        Row("every step screened", ("--check", "screen")),
        Row("every step screened, width 1024", ("--check", "screen", "--hidden", "1024")),
    ]


def measure(row: Row, arguments: Arguments) -> dict[str, float]:
    """Seconds an epoch, steps a second, parameters and peak memory of one run."""
    with tempfile.TemporaryDirectory() as folder:
        launch = ["-m", "torch.distributed.run", f"--nproc-per-node={row.processes}"] if row.processes > 1 else []
        command = [
            sys.executable, *launch, "-m", "lean_mnist.train", "--dataset", arguments.dataset, "--quiet",
            "--limit-train", str(row.examples or arguments.examples), "--validation-size", "1000", "--epochs", "2",
            "--batch-size", "64", "--lr", "0.01", "--run-name", "scaling", "--runs-dir", f"{folder}/runs",
            "--checkpoints-dir", f"{folder}/checkpoints", *row.options,
        ]  # fmt: skip
        peak = _peak_memory(command, row.threads)
        summary = json.loads(Path(folder, "runs", "scaling", "summary.json").read_text())
    return {
        "seconds_an_epoch": summary["seconds"] / 2,
        "examples_a_second": summary["examples_per_second"],
        "peak_memory": peak,
    }


def _peak_memory(command: list[str], threads: int) -> float:
    """Run a command to its end; the most memory that it held at a time, in MB."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: expected exit status 0, found {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / 1024


def main() -> None:
    """Run every row and print a table."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m benchmarks.scaling")
    imports = _peak_memory([sys.executable, "-c", "import lean_mnist.training.run"], 2)
    if not arguments.json:
        print(f"{arguments.dataset}, {arguments.examples:,} examples unless said; imports alone hold {imports:.0f} MB")
    found = {}
    for row in tqdm([row for row in rows() if arguments.only in row.name], unit="run", file=sys.stderr):
        values = found[row.name] = measure(row, arguments)
        if not arguments.json:
            seconds, speed, memory = (values[name] for name in ("seconds_an_epoch", "examples_a_second", "peak_memory"))
            above = f"{memory - imports:6.0f} MB above imports"
            print(f"{row.name:<34} {seconds:8.3f} s an epoch {speed:>9,.0f} examples/s {above}", flush=True)
    if arguments.json:
        print(json.dumps({"imports": imports, "rows": found}))


if __name__ == "__main__":
    run_command(main)
