"""One process that trains, checks, saves, resumes, evaluates and certifies for hours, and what it holds meanwhile."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import random
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lean_mnist import certify, evaluate, train
from lean_mnist.command_line import run_command
from lean_mnist.training.checkpoints import content_hash, read_checkpoint

COMMON = (
    "--dataset", "digits", "--epochs", "2", "--check", "full", "--check-every", "5", "--gradcheck-every", "9",
    "--log-every", "3", "--quiet",
)  # fmt: skip
KINDS = (
    ("--hidden", "16"),
    ("--hidden", "12", "12", "--optimizer", "adam", "--accumulate", "2"),
    ("--hidden", "8", "--quantize", "4", "--normalization", "unit", "--track-test"),
)
LEAST_ROUNDS = 40  # for a verdict


@dataclass(frozen=True)
class Sample:
    """Holdings of the process after a round."""

    round: int
    seconds: float  # since the start
    resident: int  # bytes
    handles: int
    threads: int
    children: int
    temporary: int  # files in its folder for temporary ones, and hidden ones beside checkpoints and records
    objects: int  # that Python's collector knows
    killed_after: float  # seconds into the child's run
    outcome: str  # what the killed child left


@dataclass(frozen=True)
class Outcome:
    """Outcome of a round."""

    killed_after: float
    text: str
    leftovers: int = 0


def sample(number: int, started: float, temporary: Path, outcome: Outcome) -> Sample:
    """Present holdings of this process."""
    gc.collect()
    own = Path("/proc/self")
    pages = int((own / "statm").read_text().split()[1])
    children = sum(len((task / "children").read_text().split()) for task in (own / "task").iterdir())
    return Sample(
        round=number,
        seconds=round(time.monotonic() - started, 1),
        resident=pages * os.sysconf("SC_PAGE_SIZE"),
        handles=len(os.listdir("/proc/self/fd")) - 1,  # the one that lists them
        threads=len(os.listdir("/proc/self/task")),
        children=children,
        temporary=len(os.listdir(temporary)) + outcome.leftovers,
        objects=len(gc.get_objects()),
        killed_after=round(outcome.killed_after, 3),
        outcome=outcome.text,
    )


@contextlib.contextmanager
def captured() -> Iterator[io.StringIO]:
    """Standard output and standard error, caught."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        yield text


def command(main: Callable[[], None], *arguments: str) -> None:
    """A command in this process; raises ``RuntimeError`` with what it said if its status is not 0."""
    before, sys.argv = sys.argv, ["command", *arguments]
    try:
        with captured() as text:
            run_command(main)
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise RuntimeError(f"{' '.join(arguments)}: status {stop.code}: {text.getvalue().strip()}") from None
    finally:
        sys.argv = before


def child_killed_after(seconds: float, action: Callable[[], None]) -> bool:
    """Do ``action`` in a child that is killed after ``seconds``; returns whether that was before its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


class Soak:
    """Rounds of a soak in ``folder``; each trains twice, once of them killed and resumed, and checks both outcomes."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self._folder, self._random = folder, random.Random(seed)
        self._expected: dict[int, str] = {}
        self._seconds: dict[int, float] = {}

    def round(self, number: int) -> Outcome:
        """One round; raises where something in it is not as it must be."""
        kind = number % len(KINDS)
        places = ("--runs-dir", str(self._folder / "runs"), "--checkpoints-dir", str(self._folder / "checkpoints"))
        arguments = (*COMMON, *KINDS[kind], *places)

        started = time.monotonic()
        command(train.main, *arguments, "--run-name", "whole")
        self._seconds[kind] = time.monotonic() - started
        self._certified("whole", kind)

        seconds = self._random.uniform(0, 1.1 * self._seconds[kind])
        killed = child_killed_after(seconds, lambda: command(train.main, *arguments, "--run-name", "killed"))
        outcome = self._go_on(arguments) if killed else "finished"
        self._certified("killed", kind)
        leftovers = sum(path.name.startswith(".") for path in self._folder.rglob("*"))
        for name in ("runs", "checkpoints"):
            shutil.rmtree(self._folder / name)
        return Outcome(seconds, outcome, leftovers)

    def _go_on(self, arguments: Sequence[str]) -> str:
        if (self._folder / "checkpoints" / "killed" / "last.pt").exists():
            command(train.main, "--resume", "killed", *arguments[-4:])
            return "resumed"
        command(train.main, *arguments, "--run-name", "killed")
        return "started over"

    def _certified(self, name: str, kind: int) -> None:
        """Evaluate and certify a finished run and check its certificate; its weights are those of every such run."""
        checkpoints, runs = self._folder / "checkpoints" / name, self._folder / "runs" / name
        command(evaluate.main, str(checkpoints / "best.pt"), "--json")
        command(certify.main, "--check", str(runs / "certificate.json"), "--json")
        out = self._folder / "certified"
        out.mkdir()
        command(certify.main, str(checkpoints / "best.pt"), "--out", str(out))
        command(certify.main, "--check", str(out / "certificate.json"), "--json")
        shutil.rmtree(out)
        found = "".join(content_hash(read_checkpoint(checkpoints / f"{w}.pt")["model"]) for w in ("best", "last"))
        if self._expected.setdefault(kind, found) != found:
            raise RuntimeError(f"{name}: expected the weights of every other run of kind {kind}, found others")


def soak(hours: float, out: Path, folder: Path, seed: int = 0) -> Verdict:
    """Rounds for ``hours`` with a JSON line each in ``out``; then the verdict over them, which is the last line."""
    folder.mkdir(parents=True)
    temporary = folder / "tmp"
    temporary.mkdir()
    os.environ["TMPDIR"] = str(temporary)
    started, samples, failures, number = time.monotonic(), [], 0, 0
    rounds = Soak(folder / "work", seed)
    (folder / "work").mkdir()
    with out.open("w", encoding="utf-8") as file:
        while time.monotonic() - started < 3600 * hours:
            try:
                outcome = rounds.round(number)
            except Exception as error:  # noted, counted, and the next round starts in an empty folder
                failures += 1
                outcome = Outcome(0.0, f"failed: {error}")
                shutil.rmtree(folder / "work")
                (folder / "work").mkdir()
            samples.append(sample(number, started, temporary, outcome))
            print(json.dumps(asdict(samples[-1])), file=file, flush=True)
            number += 1
        verdict = judge(samples, failures)
        print(
            json.dumps({"verdict": asdict(verdict), "flat": verdict.flat, "good": verdict.good}), file=file, flush=True
        )
    return verdict


@dataclass(frozen=True)
class Change:
    """A quantity's median in the second and in the last quarter of the rounds, and its slope between."""

    name: str
    second: float
    last: float
    slope_per_hour: float
    allowed: float

    @property
    def flat(self) -> bool:
        """True if it grew by no more than is allowed."""
        return self.last - self.second <= self.allowed


@dataclass(frozen=True)
class Verdict:
    """Change of what the process holds, over all rounds."""

    rounds: int
    failures: int
    hours: float
    changes: tuple[Change, ...]

    @property
    def flat(self) -> bool:
        """True if nothing grew; too few rounds show nothing."""
        return self.rounds >= LEAST_ROUNDS and bool(self.changes) and all(change.flat for change in self.changes)

    @property
    def good(self) -> bool:
        """True if nothing grew and no round failed."""
        return self.flat and not self.failures

    def __str__(self) -> str:
        what = "flat" if self.flat else "NOT FLAT"
        lines = [f"{self.rounds} rounds in {self.hours:.2f} h, {self.failures} failed: {what}"]
        for change in self.changes:
            lines.append(
                f"  {change.name:<10} second quarter {change.second:,.0f}, last quarter {change.last:,.0f}, "
                f"{change.slope_per_hour:+,.1f} an hour{'' if change.flat else '   GROWS'}"
            )
        return "\n".join(lines)


def judge(samples: Sequence[Sample], failures: int) -> Verdict:
    """Compare the medians of the second and the last quarter; the first is warming up.

    Memory may differ by 2 MB and 1 %, which is what the allocator's fragments do between equal rounds; Python's objects
    by 1 %; everything else by nothing.
    """
    changes = []
    quarter = len(samples) // 4
    hours = samples[-1].seconds / 3600 if samples else 0.0
    if quarter:
        second, last = samples[quarter : 2 * quarter], samples[-quarter:]
        between = (statistics.median(s.seconds for s in last) - statistics.median(s.seconds for s in second)) / 3600
        for name in ("resident", "handles", "threads", "children", "temporary", "objects"):
            before, after = (statistics.median(getattr(s, name) for s in part) for part in (second, last))
            allowed = {"resident": 2 * 2**20 + 0.01 * before, "objects": 0.01 * before}.get(name, 0.0)
            changes.append(Change(name, before, after, (after - before) / max(between, 1e-9), allowed))
    return Verdict(len(samples), failures, hours, tuple(changes))
