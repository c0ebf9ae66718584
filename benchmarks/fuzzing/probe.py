"""One input put to one reader, and watched: what it raises, prints, takes and allocates."""

from __future__ import annotations

import contextlib
import io
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from benchmarks.fuzzing.mutations import Mutation
from lean_mnist.errors import LeanMnistError
from lean_mnist.generalization.checker import Rejected

MOST_SECONDS = 1.0  # of processor time
MOST_MEMORY = 64 << 20  # besides twice the file
LONGEST_LINE = 4_100
MOST_OUTPUT = 100_000
CUT_AFTER = 20.0  # seconds of processor time after which an input is given up


class Fault(Enum):
    """Faults in how a reader took an input."""

    ERROR = "an error of another class"
    MESSAGE = "a message that is not one printable line"
    OUTPUT = "output that is not printable"
    TIME = "time"
    MEMORY = "memory"
    DIED = "the process died or hung"


@dataclass(frozen=True)
class Target:
    """A reader: ``prepare`` puts what it needs into a folder, and returns honest contents of ``file``."""

    name: str
    file: str
    prepare: Callable[[Path], Sequence[bytes]]
    read: Callable[[Path], object]
    mutations: tuple[Mutation, ...]
    share: int = 10  # of the inputs, relative to the other targets


@dataclass(frozen=True)
class Outcome:
    """Outcome of one input. ``where`` tells findings apart: an error's class and the function it came through."""

    accepted: bool
    seconds: float
    memory: int
    fault: Fault | None = None
    where: str = ""
    words: str = ""


class _CutError(BaseException):
    """The processor time for one input is over."""


class Probe:
    """A target in a folder of its own, with honest files. Input number ``index`` follows from the seed alone."""

    def __init__(self, target: Target, folder: Path, seed: int, most_seconds: float = MOST_SECONDS) -> None:
        self.target, self._folder, self._seed, self._most_seconds = target, folder, seed, most_seconds
        self.path = folder / target.file
        self._honest = list(target.prepare(folder))
        for content in self._honest * 2:  # imports what is imported at the first use
            found = self.attempt(content, honest=True)
            if found.fault or not found.accepted:
                raise RuntimeError(f"{target.name}: an honest file is not read: {found.words or found.where}")

    def content(self, index: int) -> bytes:
        """The input of that number."""
        random = Random(f"{self._seed} {self.target.name} {index}")
        return random.choice(self.target.mutations)(random, self._honest)

    def attempt(self, content: bytes, *, honest: bool = False) -> Outcome:
        """Put ``content`` to the reader."""
        self.path.write_bytes(content)
        output, before = io.StringIO(), _resident(reset=True)
        error: BaseException | None = None
        signal.signal(signal.SIGPROF, _cut)
        signal.setitimer(signal.ITIMER_PROF, CUT_AFTER)
        begun = time.process_time(), time.thread_time()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                with warnings.catch_warnings(record=True) as warned:
                    warnings.simplefilter("always")
                    self.target.read(self.path)
                output.writelines(f"{each.category.__name__}: {each.message}" for each in warned)
        except (Exception, SystemExit, _CutError) as raised:
            error = raised
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        # The process's clock moves in steps of milliseconds while a timer of it runs; the thread's does not.
        seconds = max(time.process_time() - begun[0], time.thread_time() - begun[1])
        memory = _peak() - before
        fault, words = self._judged(error, output.getvalue(), seconds, memory, len(content))
        where = _where(error) if error is not None else ""
        if honest and fault in (Fault.TIME, Fault.MEMORY):  # imports
            fault = None
        return Outcome(error is None, seconds, memory, fault, where, words)

    def _judged(
        self, error: BaseException | None, output: str, seconds: float, memory: int, size: int
    ) -> tuple[Fault | None, str]:
        if isinstance(error, _CutError) or seconds > self._most_seconds:
            return Fault.TIME, f"{seconds:.2f} s"
        if memory > 2 * size + MOST_MEMORY:
            return Fault.MEMORY, f"{memory >> 20} MiB for {size:,} bytes"
        if error is not None and not isinstance(error, (LeanMnistError, Rejected)):
            return Fault.ERROR, f"{type(error).__name__}: {str(error)[:300]!r}"
        message = "" if error is None else str(error)
        if error is not None and not (message.isprintable() and 0 < len(message) <= LONGEST_LINE):
            return Fault.MESSAGE, repr(message[:500])
        if len(output) > MOST_OUTPUT or not output.replace("\n", "").isprintable():
            return Fault.OUTPUT, repr(output[:500])
        if "Warning" in output:
            return Fault.OUTPUT, repr(output[:500])
        return None, ""

    def smaller(self, content: bytes, like: Outcome, tries: int = 60) -> bytes:
        """``content`` with blocks left out as long as the same goes wrong."""
        size = len(content) // 2
        while size and tries:
            start = 0
            while start < len(content) and tries:
                shorter, tries = content[:start] + content[start + size :], tries - 1
                found = self.attempt(shorter)
                if (found.fault, found.where) == (like.fault, like.where):
                    content = shorter
                else:
                    start += size
            size //= 4
        return content


def _cut(number: int, frame: FrameType | None) -> None:
    raise _CutError


def _where(error: BaseException) -> str:
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "/lean_mnist/" in frame.filename]
    place = f" in {Path(own[-1].filename).name}, {own[-1].name}" if own else ""
    return f"{type(error).__name__}{place}"


def _resident(*, reset: bool) -> int:
    """Bytes of memory in use; with ``reset`` the peak is set to it, where the system can do that."""
    now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    if reset and _peak() - now > 4 << 20:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return now


def _peak() -> int:
    """The most bytes in use since the peak was reset. (``ru_maxrss`` is never reset, and begins with the parent's.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def describe(outcome: Outcome) -> dict[str, Any]:
    """Plain values of a finding, for JSON."""
    fault = outcome.fault.value if outcome.fault else None
    return {"fault": fault, "where": outcome.where, "words": outcome.words, "seconds": outcome.seconds}
