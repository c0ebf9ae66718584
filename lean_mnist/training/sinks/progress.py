"""Progress on standard error: a few lines that change on a terminal, a line an epoch elsewhere."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from lean_mnist.crosscheck.comparison import or_infinity
from lean_mnist.training.sinks.live import Board, Piece, can_redraw, clock, coloured, sparkline
from lean_mnist.training.sinks.records import Epoch, Notice, Record, Scalar, Sink

NOTE = "run/note"  # a notice of nothing to worry about


def progress_sink(dataset: str, epochs: int, steps: int, done: int, quiet: bool, stream: TextIO | None = None) -> Sink:
    """The sink that suits ``stream`` (standard error): lines that change on a terminal, else lines that stay.

    With ``quiet`` there are warnings alone. ``steps`` is how many the whole run has, ``done`` how many of them an
    earlier session did.
    """
    stream = sys.stderr if stream is None else stream
    if quiet:
        return _Notices(stream)
    return (_Live if can_redraw(stream) else _Lines)(stream, os.path.basename(dataset) or dataset, epochs, steps, done)


class _Notices(Sink):
    _notes = False  # whether those are printed that are no warnings

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, record: Record) -> None:
        if isinstance(record, Notice):
            if record.name != NOTE:
                self._say(f"warning: step {record.step}: {record.value}")
            elif self._notes:
                self._say(record.value)

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the terminal has gone, and the run has not
            print(line, file=self._stream, flush=True)


class _Lines(_Notices):
    _notes = True

    def __init__(self, stream: TextIO, dataset: str, epochs: int, steps: int, done: int) -> None:
        super().__init__(stream)
        self._dataset, self._epochs, self._steps, self._done = dataset, epochs, steps, done
        self._started = time.monotonic()

    def write(self, record: Record) -> None:
        super().write(record)
        if not isinstance(record, Epoch):
            return
        epoch, (elapsed, left) = record.value, self._times(record.step)
        values = "  ".join(f"{name} {value}" for name, value in _shown(epoch).items())
        self._say(
            f"{self._dataset}  epoch {epoch['epoch']:>{len(str(self._epochs))}}/{self._epochs}"
            f"  loss {epoch['train_loss']:.4f}  {values}"
            f"  divergence {epoch['divergence']:.1e}  {elapsed:.1f} s, {left:.0f} s left"
        )

    def _times(self, step: int) -> tuple[float, float]:
        """Seconds that this session has taken, and that it will still take, by what it did."""
        share = (step - self._done) / max(1, self._steps - self._done)
        elapsed = time.monotonic() - self._started
        return elapsed, elapsed * (1 / share - 1) if share else 0.0


class _Live(_Lines):
    """Epoch and validation accuracy first, then place and time left, the course of the loss, the checks so far."""

    def __init__(self, stream: TextIO, dataset: str, epochs: int, steps: int, done: int) -> None:
        super().__init__(stream, dataset, epochs, steps, done)
        self._board = Board(stream, coloured(stream))
        self._step, self._finished = done, done * epochs // max(1, steps)
        self._values: dict[str, str] = {}
        self._selected = -1.0, -math.inf  # validation accuracy and, of equals, the loss below 0, as a run selects
        self._best_epoch = 0
        self._losses: list[float] = []
        self._passed = {"crosscheck/passed": 0, "crosscheck/gradcheck_passed": 0}
        self._failed, self._screened, self._divergence, self._share = 0, False, 0.0, 0.0
        self._draw()

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._board.above(line)

    def write(self, record: Record) -> None:
        super(_Lines, self).write(record)
        if isinstance(record, Scalar):
            self._take(record.name, record.value)
        elif isinstance(record, Epoch):
            self._take_epoch(record.value)
        else:
            return
        self._step = max(self._step, record.step)
        self._draw(soon=not isinstance(record, Epoch))

    def _take(self, name: str, value: float) -> None:
        if name == "train/loss":
            self._losses.append(value)
        elif name == "divergence/largest":
            self._divergence = max(self._divergence, value, key=or_infinity)
        elif name == "crosscheck/share_of_allowed":
            self._share = max(self._share, value, key=or_infinity)
        elif name == "screen/share_of_allowed":
            self._screened = True
        elif name in self._passed or name == "screen/passed":
            self._failed += value == 0
            if name in self._passed:
                self._passed[name] += value != 0

    def _take_epoch(self, epoch: Mapping[str, Any]) -> None:
        self._finished, self._values = epoch["epoch"], _shown(epoch)
        found = epoch.get("validation_accuracy", -1.0), -epoch.get("validation_loss", math.inf)
        if found > self._selected:
            self._selected, self._best_epoch = found, epoch["epoch"]

    def _draw(self, *, soon: bool = False) -> None:
        with contextlib.suppress(OSError):
            if self._board.is_due() or not soon:
                self._board.draw([self._head(), self._bar(), self._loss(), self._checks()])

    def _head(self) -> list[Piece]:
        number = min(self._finished + 1, self._epochs)
        pieces = [(self._dataset, "bold"), (f"  epoch {number}/{self._epochs}", "bold")]
        for name, value in self._values.items() or [("validation", "after the epoch")]:
            pieces += [(f"  {name} ", ""), (value, "green" if self._values else "dim")]
        if self._best_epoch:
            pieces.append((f"  best {self._selected[0]:.2%} (epoch {self._best_epoch})", "dim"))
        return pieces

    def _bar(self) -> list[Piece]:
        elapsed, left = self._times(self._step)
        share = self._step / max(1, self._steps)
        done = self._board.bar(share, 30)
        said = f"  {share:4.0%}  step {self._step:,}/{self._steps:,}"
        return [(done, "cyan"), (said, ""), (f"  {clock(elapsed)}, {clock(left)} left", "dim")]

    def _loss(self) -> list[Piece]:
        if not self._losses:
            return [("loss    after the first step", "dim")]
        course = sparkline(self._losses, 40, self._board.levels)
        return [("loss    ", "dim"), (f"{self._losses[-1]:<8.4f}", ""), (course, "cyan")]

    def _checks(self) -> list[Piece]:
        audits, gradchecks = self._passed.values()
        passed = ", ".join(filter(None, [_counted(audits, "audit"), _counted(gradchecks, "gradcheck")]))
        done = ", ".join(filter(None, [f"{passed} passed" * bool(passed), "every step screened" * self._screened]))
        pieces: list[Piece] = [("checks  ", "dim")]
        if self._failed:
            pieces.append((f"{self._failed} FAILED  ", "red"))
        pieces.append((done or "none yet", "green" if done else "dim"))
        if self._divergence:
            share = "" if self._screened else f", {self._share:.0%} of rounding"
            pieces.append((f"; divergence {self._divergence:.1e}{share}", ""))
        return pieces

    def close(self) -> None:
        self._draw()
        with contextlib.suppress(OSError):
            self._board.leave()


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number > 1)}" if number else ""


def _shown(epoch: Mapping[str, Any]) -> dict[str, str]:
    """Validation accuracy, where a split validates, and an objective's own quantities."""
    if "validation_accuracy" in epoch:
        return {"validation": format(epoch["validation_accuracy"], ".2%")}
    own = {name: value for name, value in epoch.items() if name not in ("epoch", "train_loss", "divergence")}
    return {name: format(value, ".4g") for name, value in own.items()}
