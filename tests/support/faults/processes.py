"""A child process by ``fork`` for each trial, so that nothing is imported again; how it ended and what it said."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

LIMIT = 120  # seconds after which a child counts as hanging


@dataclass(frozen=True)
class Ended:
    """End of a child: its status, or minus the signal that ended it, and what it said on standard error."""

    status: int
    error: str
    seconds: float
    hung: bool = False

    @property
    def killed(self) -> bool:
        """True if it was killed."""
        return self.status == -signal.SIGKILL and not self.hung


class Child:
    """Action in a child process, with ``folder`` as its present folder and both outputs caught in ``log``."""

    def __init__(self, action: Callable[[], object], folder: Path, log: Path, first: Callable[[], None] | None = None):
        self._log, self._started, self.hung = log, time.monotonic(), False
        self._status: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.process = os.fork()
        if self.process == 0:
            os._exit(_in_child(action, folder, log, first))

    def over(self) -> bool:
        """True if it has ended."""
        if self._status is None:
            found, status = os.waitpid(self.process, os.WNOHANG)
            if found:
                self._status = status
        return self._status is not None

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if not self.over():
            os.kill(self.process, number)

    def ended_with(self, status: int) -> None:
        """Note how it ended, where another has waited for it."""
        self._status = status

    def wait(self) -> Ended:
        """Wait until it has ended; one that hangs is killed."""
        if self._status is None:
            with watched(self):
                self._status = os.waitpid(self.process, 0)[1]
        code = os.waitstatus_to_exitcode(self._status)
        error = self._log.read_bytes().decode(errors="backslashreplace")
        return Ended(code, error, time.monotonic() - self._started, self.hung)


@contextlib.contextmanager
def watched(child: Child) -> Iterator[None]:
    """While entered, ``child`` is killed once it has run for longer than ``LIMIT``."""

    def end(number: int, frame: FrameType | None) -> None:
        child.hung = True
        os.kill(child.process, signal.SIGKILL)

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _in_child(action: Callable[[], object], folder: Path, log: Path, first: Callable[[], None] | None) -> int:
    status: object = 1
    try:
        os.chdir(folder)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        atexit._clear()  # those of the parent
        if first is not None:
            first()
        try:
            action()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            traceback.print_exc()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        gc.collect()  # as at the end of a program: what is left open is closed, and may complain
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    return status if isinstance(status, int) else 1
