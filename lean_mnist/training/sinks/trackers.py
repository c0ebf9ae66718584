"""MLflow and Weights & Biases, each an extra: the records of ``metrics.jsonl`` once more, for whoever keeps runs there.

Records are sent where the run's other logs are put on disk, before a checkpoint: what follows a checkpoint that a run
goes on from was mostly not sent yet, and is sent once. The file ``trackers.json`` in the run's folder has the names
under which it goes on.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lean_mnist.errors import ConfigError
from lean_mnist.files import plain, write_atomically
from lean_mnist.invocation import typed
from lean_mnist.reading.json import read_json
from lean_mnist.reading.text import printable, shown
from lean_mnist.training.config import Config
from lean_mnist.training.sinks.records import Drawing, Epoch, Outcome, Record, Scalar, Sink

FILE, PROJECT = "trackers.json", "lean_mnist"
_NAME = re.compile(r"[0-9a-zA-Z_-]{1,64}")


def require_trackers(config: Config) -> None:
    """Raise ``ConfigError`` unless the packages of the trackers that are asked for are there."""
    for name, wanted, package in (("mlflow", config.mlflow, "mlflow-skinny"), ("wandb", config.wandb, "wandb")):
        if wanted is not None and importlib.util.find_spec(name) is None:
            how = typed("python -m pip", "install", package)
            raise ConfigError(f"--{name} {printable(wanted, 60)}: expected the package {name}; to have it: {how}")


def open_trackers(config: Config, folder: Path, *, fresh: bool) -> Iterator[Sink]:
    """The sinks that ``config`` asks for, of the run in ``folder``; raises ``ConfigError`` for one that cannot be."""
    path = folder / FILE
    known = {} if fresh or not path.exists() else _names(path)
    for name, wanted, make in (("mlflow", config.mlflow, MlflowSink), ("wandb", config.wandb, WandbSink)):
        if wanted is not None:
            with _in_a_line(f"--{name} {printable(wanted, 60)}"):
                sink = make(wanted, config, folder, known.get(name))
            known[name] = sink.name
            write_atomically(path, (json.dumps(known) + "\n").encode())
            yield sink


def _names(path: Path) -> dict[str, str]:
    found = read_json(path, "names of runs in trackers", ConfigError, largest=1 << 12)
    if isinstance(found, dict) and all(isinstance(name, str) and _NAME.fullmatch(name) for name in found.values()):
        return found
    raise ConfigError(f"{shown(path)}: expected names of runs in trackers; to begin them anew, delete it")


@contextmanager
def _in_a_line(what: str) -> Iterator[None]:
    """Errors of other packages as ``ConfigError``, in a line that begins with ``what``."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"{what}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    """The first line of another package's error, or its class where it says nothing."""
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0], 300)


class Tracker(Sink):
    """Sink that holds records back until they are to be on disk; ``name`` is the run's in the tracker."""

    name: str

    def __init__(self) -> None:
        self._pending: list[Record] = []
        self._told = False

    def write(self, record: Record) -> None:
        """Keep it until ``flush``; drawings are left to TensorBoard, and figures of epochs come as scalars, too."""
        if not isinstance(record, (Drawing, Epoch)):
            self._pending.append(record)

    def flush(self) -> dict[str, int]:
        """Send what was kept. Where that fails, a line says so once, and the next flush tries again."""
        try:
            self._send(self._pending)
        except Exception as error:  # whatever goes wrong elsewhere, the run has its own records and goes on
            self._failed(error)
        else:
            self._pending = []
        return {}

    def close(self) -> None:
        """Send what was kept, and say that this session has ended."""
        self.flush()
        try:
            self._end()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if not self._told:
            where = f"{type(self).__name__.removesuffix('Sink')}: {_first_line(error)}"
            print(f"warning: {where}; the run goes on, with all records in metrics.jsonl", file=sys.stderr, flush=True)
        self._told = True

    def _send(self, records: list[Record]) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError


class MlflowSink(Tracker):
    """Run of MLflow at ``where``, a server's address or a folder; it goes on with the run ``name``, if given."""

    def __init__(self, where: str, config: Config, folder: Path, name: str | None) -> None:
        super().__init__()
        from mlflow import MlflowClient

        if "://" not in where:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            where = Path(where).absolute().as_uri()
        self._client, self._sent = MlflowClient(tracking_uri=where), dict[str, int]()
        self._resumed = name is not None
        if name is None:
            experiment = self._client.get_experiment_by_name(PROJECT)
            number = self._client.create_experiment(PROJECT) if experiment is None else experiment.experiment_id
            name = self._client.create_run(number, run_name=config.run_name).info.run_id
            for option, value in config.to_dict().items():
                self._client.log_param(name, option, value)
        else:
            self._client.update_run(name, status="RUNNING")
        self.name = name

    def _send(self, records: list[Record]) -> None:
        from mlflow.entities import Metric

        now, numbers = int(time.time() * 1000), list[Metric]()
        for record in records:
            if isinstance(record, Scalar):
                if record.step > self._last_step(record.name):
                    numbers.append(Metric(record.name, float(record.value), now, record.step))
            elif isinstance(record, Outcome):
                self._client.log_dict(self.name, plain(dict(record.value)), "outcome.json")
            else:
                self._client.log_text(self.name, str(record.value), f"{record.name}/{record.step}.md")
        for start in range(0, len(numbers), 1000):
            self._client.log_batch(self.name, numbers[start : start + 1000])

    def _last_step(self, key: str) -> int:
        """The last step of this quantity that was sent before, by an earlier session or where something went wrong."""
        if (self._resumed or self._told) and key not in self._sent:
            history = self._client.get_metric_history(self.name, key)
            self._sent[key] = max((metric.step for metric in history), default=-1)
        return self._sent.get(key, -1)

    def _failed(self, error: Exception) -> None:
        self._sent.clear()  # part of what follows may have been sent
        super()._failed(error)

    def _end(self) -> None:
        self._client.set_terminated(self.name)


class WandbSink(Tracker):
    """Run of Weights & Biases, ``offline`` in the run's folder or ``online``; goes on with the run ``name``, if given.

    Online, it takes no number of a step before its last one, so that none is there twice.
    """

    def __init__(self, mode: str, config: Config, folder: Path, name: str | None) -> None:
        super().__init__()
        import wandb

        kind: Any = mode
        self.name = name or uuid.uuid4().hex[:16]
        quiet: Any = {"silent": True, "console": "off", "disable_git": True, "save_code": False}
        self._run = wandb.init(
            project=PROJECT, id=self.name, name=config.run_name, dir=str(folder), mode=kind, resume="allow",
            config=config.to_dict(), settings=wandb.Settings(**quiet, x_disable_stats=True, x_disable_meta=True),
        )  # fmt: skip

    def _send(self, records: list[Record]) -> None:
        for record in records:
            if isinstance(record, Outcome):
                self._run.summary.update(plain(dict(record.value)))
            else:
                value = float(record.value) if isinstance(record, Scalar) else str(record.value)
                self._run.log({record.name: value}, step=record.step)

    def _end(self) -> None:
        self._run.finish()
