"""Folders of a run, under ``runs`` and ``checkpoints``, and the sinks that write into them."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lean_mnist.errors import ConfigError
from lean_mnist.files import plain, write_atomically
from lean_mnist.training.config import Config
from lean_mnist.training.distributed import World
from lean_mnist.training.sinks.json_lines import JsonLinesSink
from lean_mnist.training.sinks.progress import progress_sink
from lean_mnist.training.sinks.records import Record, Sink
from lean_mnist.training.sinks.tensorboard import TensorBoardSink


class RunFolder:
    """Folders of a run: ``folder`` and ``checkpoints``, both called ``name``. Made by :meth:`claim`."""

    ended_before = False  # in an earlier session, so that the records of its end are there already

    def __init__(self, name: str, config: Config) -> None:
        self.name, self.folder = name, Path(config.runs_dir) / name
        self.checkpoints = Path(config.checkpoints_dir) / name
        self._sinks: list[Sink] = []

    @classmethod
    def claim(cls, config: Config, *, resuming: bool) -> RunFolder:
        """Make the folders of a run; a new run never gets those of another.

        Raises ``ConfigError`` where a name that was asked for is taken, or the folders cannot be made.
        """
        name = config.run_name or f"{config.dataset}-{time.strftime('%Y%m%d-%H%M%S')}"
        for number in itertools.count(1):
            made = cls(name if number == 1 else f"{name}-{number}", config)
            folders = made.folder, made.checkpoints
            taken = [] if resuming else [folder for folder in folders if folder.exists()]
            if not taken:
                break
            if config.run_name is not None:
                raise ConfigError(
                    f"--run-name {name}: {taken[0]} exists already; choose another name, or --resume {name}"
                )
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"{folder}: expected a folder that can be written, found: {error.strerror}") from None
        return made

    @contextlib.contextmanager
    def open_sinks(self, config: Config, steps: int, done: int, resuming: bool, world: World) -> Iterator[None]:
        """Open the sinks, those of files on the writer alone; ``done`` of the run's ``steps`` were made before."""
        resume_step = done if resuming else None
        with contextlib.ExitStack() as stack:

            def add(sink: Sink) -> None:
                stack.callback(sink.close)
                self._sinks.append(sink)

            def open_files() -> None:  # one by one, so that those already open are closed if the next cannot be
                add(TensorBoardSink(self.folder, resume_step))
                add(JsonLinesSink(self.folder / "metrics.jsonl", resume_step))

            world.on_writer(open_files)
            add(progress_sink(config.dataset, config.epochs, steps, done, config.quiet or not world.is_writer))
            yield

    def emit(self, record: Record) -> None:
        """Give a record to every sink."""
        for sink in self._sinks:
            sink.write(record)

    def flush(self) -> None:
        """Make sure that all records so far are on disk."""
        for sink in self._sinks:
            sink.flush()

    def write_json(self, name: str, values: Any) -> None:
        """Write ``values`` as the file ``name`` of the run's folder."""
        text = json.dumps(plain(values), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(self.folder / name, f"{text}\n".encode())
