"""Signals that ask a run to stop: it ends after the step that it is at, or at once where that is as good."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from lean_mnist.errors import Interrupted

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # the last of them not everywhere


class StopRequest:
    """While entered, SIGINT, SIGTERM and SIGHUP set ``requested`` instead of ending the program.

    A second SIGINT raises ``KeyboardInterrupt`` at once. A SIGHUP that is ignored, as under ``nohup``, stays ignored.
    """

    def __init__(self) -> None:
        self.requested = ""  # the signal's name
        self._at_once = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for name in _SIGNALS:
                number = getattr(signal, name, None)
                if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                    continue
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = bool(self.requested) and number == signal.SIGINT
        self.requested = signal.Signals(number).name
        if again or self._at_once:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def at_once(self, message: str) -> Iterator[None]:
        """Raise ``Interrupted`` with ``message`` as soon as a stop is asked for while entered, or was before."""
        self._at_once = True
        try:
            if self.requested:
                raise KeyboardInterrupt
            yield
        except KeyboardInterrupt:
            raise Interrupted(message) from None
        finally:
            self._at_once = False
