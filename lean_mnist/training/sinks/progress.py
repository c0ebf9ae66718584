"""Progress on standard error: a bar on a terminal, a line an epoch elsewhere."""

import contextlib
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from lean_mnist.training.sinks.records import Epoch, Notice, Record, Scalar, Sink


def progress_sink(dataset: str, epochs: int, steps: int, done: int, quiet: bool, stream: TextIO | None = None) -> Sink:
    """The sink that suits ``stream`` (standard error): a bar on a terminal, else lines; warnings alone when ``quiet``.

    ``steps`` is how many the whole run has, ``done`` how many of them an earlier session did.
    """
    stream = sys.stderr if stream is None else stream
    if quiet:
        return _Notices(stream)
    return (_Bar if stream.isatty() else _Lines)(stream, dataset, epochs, steps, done)


class _Notices(Sink):
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, record: Record) -> None:
        if isinstance(record, Notice):
            self._say(f"warning: step {record.step}: {record.value}")

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the terminal has gone, and the run has not
            print(line, file=self._stream, flush=True)


class _Lines(_Notices):
    def __init__(self, stream: TextIO, dataset: str, epochs: int, steps: int, done: int) -> None:
        super().__init__(stream)
        self._dataset, self._epochs, self._steps, self._done = dataset, epochs, steps, done
        self._started = time.monotonic()

    def write(self, record: Record) -> None:
        super().write(record)
        if not isinstance(record, Epoch):
            return
        epoch = record.value
        share = (record.step - self._done) / max(1, self._steps - self._done)
        elapsed = time.monotonic() - self._started
        left = elapsed * (1 / share - 1) if share else 0.0
        values = "  ".join(f"{name} {value}" for name, value in _shown(epoch).items())
        self._say(
            f"{self._dataset}  epoch {epoch['epoch']:>{len(str(self._epochs))}}/{self._epochs}"
            f"  loss {epoch['train_loss']:.4f}  {values}"
            f"  divergence {epoch['divergence']:.1e}  {elapsed:.1f} s, {left:.0f} s left"
        )


class _Bar(_Notices):
    def __init__(self, stream: TextIO, dataset: str, epochs: int, steps: int, done: int) -> None:
        super().__init__(stream)
        from tqdm import tqdm

        self._epochs = epochs
        self._shown: dict[str, str] = {}
        self._bar = tqdm(
            total=steps, initial=done, desc=dataset, unit="step", file=stream, dynamic_ncols=True, leave=True,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}",
        )  # fmt: skip
        # It asks the clock of the day, and says nothing more, or negative times, when that is put back.
        self._bar._time = time.monotonic
        self._bar.start_t = self._bar.last_print_t = time.monotonic()

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._bar.write(line, file=self._stream)

    def write(self, record: Record) -> None:
        super().write(record)
        if isinstance(record, Scalar) and record.name in ("train/loss", "divergence/largest"):
            key, form = ("loss", ".4f") if record.name == "train/loss" else ("divergence", ".1e")
            self._shown[key] = format(record.value, form)
        elif isinstance(record, Epoch):
            self._shown["epoch"] = f"{record.value['epoch']}/{self._epochs}"
            self._shown |= _shown(record.value)
        else:
            return
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(record.step - self._bar.n)

    def close(self) -> None:
        self._bar.close()


def _shown(epoch: Mapping[str, Any]) -> dict[str, str]:
    """Validation accuracy, where a split validates, and an objective's own quantities."""
    if "validation_accuracy" in epoch:
        return {"validation": format(epoch["validation_accuracy"], ".2%")}
    own = {name: value for name, value in epoch.items() if name not in ("epoch", "train_loss", "divergence")}
    return {name: format(value, ".4g") for name, value in own.items()}
