"""``python -m benchmarks.first_result``: seconds from the start of a process until a network is trained and tested.

Every contender is a fresh process, by turns, with another seed each turn; the first turn is not counted. Ours is the
command a user types, with its audits, pictures, certificate and files; the others are the shortest programs of their
kind that train the same network on the same examples (``benchmarks/whole``). Those not installed (extra ``bench``) are
left out, by name. ``LEAN_MNIST_DATA`` names the folder with MNIST, which all of them read as it is distributed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from lean_mnist.command_line import parse, run_command
from lean_mnist.errors import ConfigError, LeanMnistError

# Neither PyTorch nor anything as large is imported here: a process starts with the peak of memory of the one before it.

ROOT = Path(__file__).parents[1]
OURS = "ours"
_ACCURACY = re.compile(r"test accuracy (\d+\.\d+)%")


@dataclass(frozen=True)
class Goal:
    """What every contender trains, and the test accuracy that this is to reach."""

    accuracy: float
    epochs: int
    examples: int


GOALS = {"98": Goal(0.98, 3, 55_000), "93": Goal(0.93, 1, 12_000)}


@dataclass(frozen=True)
class Arguments:
    """Time whole processes, ours and others, from their start to a test accuracy."""

    goals: tuple[Literal["98", "93"], ...] = ("98", "93")
    """98: 3 epochs of 55,000 images, which reach 98 % of the test images; 93: 1 epoch of 12,000."""
    repeats: int = 5
    """Processes of each; medians count. One more goes before, unmeasured."""
    only: str = ""
    """Contenders whose names contain this, or one of several parts with commas between."""
    json: bool = False
    """Print one JSON document."""


@dataclass(frozen=True)
class Contender:
    """A command: a program of ``benchmarks/whole``, or a command of its own."""

    package: str | None = None  # it is left out without this
    program: str = ""
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)  # {kept} is a folder of the session, {new} of the run

    def arguments(self, goal: Goal, seed: int) -> list[str]:
        """The command line that trains to ``goal``."""
        values = goal.epochs, goal.examples, seed
        if self.program:
            return [sys.executable, str(ROOT / "benchmarks" / "whole" / self.program), *map(str, values)]
        named = dict(zip(("epochs", "examples", "seed"), values, strict=True))
        return [sys.executable, *(part.format(**named) for part in self.command)]


_TRAIN = (
    "-m", "lean_mnist.train", "--dataset", "mnist", "--batch-size", "64", "--lr", "0.05", "--label-smoothing", "0.05",
    "--epochs", "{epochs}", "--limit-train", "{examples}", "--seed", "{seed}",
)  # fmt: skip
_CACHE = "LEAN_MNIST_CACHE"
CONTENDERS = {
    "import torch": Contender(command=("-c", "import torch")),
    OURS: Contender(command=_TRAIN, environment={_CACHE: "{kept}"}),
    "ours, audits alone": Contender(command=(*_TRAIN, "--check", "audit"), environment={_CACHE: "{kept}"}),
    "ours, its cache empty": Contender(command=_TRAIN, environment={_CACHE: "{new}"}),
    "PyTorch, tensors in memory": Contender(program="in_pytorch.py"),
    "JAX with optax": Contender("optax", "in_jax.py"),
    "JAX, compiled before": Contender(
        "optax",
        "in_jax.py",
        environment={"JAX_COMPILATION_CACHE_DIR": "{kept}", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
    ),
    "Keras on JAX": Contender("keras", "in_keras.py"),
    "Lightning": Contender("lightning", "in_lightning.py"),
}


@dataclass(frozen=True)
class Run:
    """One process, from its start."""

    shown: float | None  # seconds until it printed the accuracy
    ended: float  # seconds until it had ended
    accuracy: float | None  # on the test images
    peak_mb: float  # of memory

    @property
    def seconds(self) -> float:
        """Until it printed the accuracy; until its end if it printed none."""
        return self.ended if self.shown is None else self.shown


def run(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Run:
    """Run ``command`` in ``folder``; raises ``LeanMnistError`` with its last line if it fails."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **environment}
    shown = accuracy = None
    with open(folder / "stderr", "w+", encoding="utf-8", errors="replace") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        try:
            with process.stdout:
                for line in process.stdout:
                    if shown is None and (found := _ACCURACY.search(line)):
                        shown, accuracy = time.perf_counter() - started, float(found[1]) / 100
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            process.kill()
            raise
        ended = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            last = (errors.read().strip() or "nothing on standard error").splitlines()[-1]
            raise LeanMnistError(f"{' '.join(command)}: ended with {process.returncode}: {last}")
    return Run(shown, ended, accuracy, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))


def measure(goal: Goal, contenders: Mapping[str, Contender], repeats: int) -> dict[str, list[Run]]:
    """``repeats`` processes of each contender, by turns, after one that is not counted."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    progress = tqdm(total=len(contenders) * (repeats + 1), unit="process", file=sys.stderr)
    with progress, tempfile.TemporaryDirectory() as session:
        for turn in range(repeats + 1):
            for name, contender in contenders.items():
                with tempfile.TemporaryDirectory() as folder:
                    kept, new = Path(session, "kept"), Path(folder, "new")
                    for place in (kept, new):
                        place.mkdir(mode=0o700, exist_ok=True)
                    where = {key: text.format(kept=kept, new=new) for key, text in contender.environment.items()}
                    found = run(contender.arguments(goal, turn), where, Path(folder))
                if turn:
                    runs[name].append(found)
                progress.update()
    return runs


def table(goal: Goal, runs: Mapping[str, list[Run]]) -> list[str]:
    """The lines to print: medians, and the mean and least accuracy."""
    seconds = {name: statistics.median(r.seconds for r in own) for name, own in runs.items()}
    ours = seconds.get(OURS, float("nan"))
    lines = [f"{'':<27} s to accuracy   s to end   × ours   accuracy (least)   peak MB"]
    for name, own in runs.items():
        found = [r.accuracy for r in own if r.accuracy is not None]
        shown, told, below = " " * 13, " " * 16, ""
        if found:
            accuracy = statistics.mean(found)
            shown, told = f"{seconds[name]:13.2f}", f"{accuracy:7.2%} ({min(found):.2%})"
            below = f"  below {goal.accuracy:.0%}" * (accuracy < goal.accuracy)
        ended, peak = statistics.median(r.ended for r in own), statistics.median(r.peak_mb for r in own)
        lines.append(f"{name:<27} {shown} {ended:10.2f} {seconds[name] / ours:8.2f}   {told} {peak:9.0f}{below}")
    return lines


def main() -> None:
    """Time everything that is installed, and print a table a goal."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m benchmarks.first_result")
    data = os.environ.get("LEAN_MNIST_DATA", "")
    if not Path(data, "MNIST", "raw", "train-images-idx3-ubyte.gz").exists():
        raise ConfigError(f"LEAN_MNIST_DATA: {data!r}, expected a folder with MNIST/raw/train-images-idx3-ubyte.gz")
    os.environ["LEAN_MNIST_DATA"] = os.path.abspath(data)  # processes run in folders of their own
    parts = arguments.only.split(",")
    chosen = {name: one for name, one in CONTENDERS.items() if any(part in name for part in parts)}
    absent = [name for name, one in chosen.items() if one.package and importlib.util.find_spec(one.package) is None]
    present = {name: one for name, one in chosen.items() if name not in absent}
    version = importlib.metadata.version("torch")
    about = f"{os.cpu_count()} cores, PyTorch {version}, {arguments.repeats} processes of each"
    goals = {name: measure(GOALS[name], present, arguments.repeats) for name in arguments.goals}
    if arguments.json:
        told = {name: {who: [asdict(r) for r in own] for who, own in runs.items()} for name, runs in goals.items()}
        print(json.dumps({"about": about, "goals": told, "absent": absent}))
        return
    print(about)
    for name, runs in goals.items():
        goal = GOALS[name]
        print(f"\nto {name} %: {goal.epochs} epoch{'s' * (goal.epochs > 1)} of {goal.examples:,} images, batch 64")
        print("\n".join(table(goal, runs)))
    for who in absent:
        print(f"{who:<28}not installed")


if __name__ == "__main__":
    run_command(main)
