"""Ctrl-C while a command is still being imported: it ends at once, with one line and without a trace."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # as of typing, which takes longer to import than all that is here
if TYPE_CHECKING:
    from types import FrameType

_STATUS = 130


def end_at_once_while_starting() -> None:
    """End the program at once on SIGINT, where Python is just looking for the module of ``python -m``."""
    if sys.argv[:1] == ["-m"] and _may_handle():
        signal.signal(signal.SIGINT, lambda number, frame: _end())


class EndedAtOnceWhileImporting:
    """While entered SIGINT raises ``KeyboardInterrupt``, but ends the program at once while a module is imported."""

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGINT, _end_or_raise) if _may_handle() else None

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


def _may_handle() -> bool:
    """True if SIGINT is not ignored, and this is the main thread: Python allows handlers nowhere else."""
    threads = sys.modules.get("threading")
    in_main = threads is None or threads.current_thread() is threads.main_thread()
    return in_main and signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None)


def _end_or_raise(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _end()
        frame = frame.f_back
    raise KeyboardInterrupt


def _end() -> None:
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(_STATUS)
