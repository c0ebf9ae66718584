"""Shared by the tests of training: short runs on ``digits``, the commands called in this process, and comparisons."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from lean_mnist.command_line import run_command
from lean_mnist.errors import Interrupted
from lean_mnist.nn import FlatParameters
from lean_mnist.nn.engine import native
from lean_mnist.nn.engine.native import NativeEngine
from lean_mnist.nn.engine.structures import Work
from lean_mnist.nn.step import StepChunk
from lean_mnist.nn.update import Update
from lean_mnist.training.config import Config
from lean_mnist.training.objectives.summary import Summary
from lean_mnist.training.run import run

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "a-run"
LAST = Path("checkpoints", NAME, "last.pt")
# Of digits' 1,437 training examples a twelfth validates; 1,318 train: ten batches of 128 and one of 38.
TRAINING_EXAMPLES, VALIDATION_EXAMPLES, TEST_EXAMPLES, STEPS_PER_EPOCH = 1318, 119, 360, 11
# Records that hold a measured time, so that no two runs share them.
MEASURED = ("throughput/examples_per_second", "crosscheck/seconds")
# Fields of checkpoints that hold measured times, or hashes or sizes of what does.
MEASURED_FIELDS = ("seconds", "content_sha256", "best_sha256", "logs")


class FinishedRun(NamedTuple):
    """A run in ``root/runs/a-run`` and ``root/checkpoints/a-run``."""

    root: Path
    summary: Summary

    @property
    def best(self) -> Path:
        return self.root / "checkpoints" / NAME / "best.pt"

    @property
    def last(self) -> Path:
        return self.root / "checkpoints" / NAME / "last.pt"

    @property
    def folder(self) -> Path:
        return self.root / "runs" / NAME

    @property
    def records(self) -> list[dict[str, Any]]:
        return records_in(self.folder)

    @property
    def summary_json(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        return values


def digits_config(**changes: Any) -> Config:
    """Two epochs on ``digits``, in silence, into ``runs`` and ``checkpoints`` of the present folder."""
    return Config(**{"dataset": "digits", "epochs": 2, "run_name": NAME, "quiet": True, **changes})


def digits_run(root: Path, **changes: Any) -> FinishedRun:
    """A run of ``digits_config`` with ``root`` as the present folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        summary = run(digits_config(**changes))
    return FinishedRun(root, summary)


def load(path: Path) -> dict[str, Any]:
    """Contents that PyTorch reads from a checkpoint, without our checks."""
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def records_in(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``."""
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def named(records: list[dict[str, Any]], name: str) -> list[Any]:
    """The values of all records called ``name``."""
    return [record["value"] for record in records if record["name"] == name]


def identical(a: Any, b: Any) -> bool:
    """True if two nests of plain values and tensors are equal bit for bit, types included."""
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape
            and _bytes(a) == _bytes(b)
        )  # fmt: skip
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and list(a) == list(b) and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(identical, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """``values`` without the fields ``names``, at any depth."""
    return {
        key: without(value, *names) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if key not in names
    }


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below ``folder`` with its content (``None`` for a folder)."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


class Stop:
    """Stands in for ``StopRequest``: asks the run to stop when it is asked for the ``step``-th time, once a step."""

    def __init__(self, step: int) -> None:
        self._step, self._asked = step, 0

    def __enter__(self) -> Stop:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def at_once(self, message: str) -> AbstractContextManager[None]:
        return nullcontext()

    @property
    def requested(self) -> str:
        self._asked += 1
        return "SIGTERM" if self._asked == self._step else ""


def interrupted_at(step: int, action: Callable[[], object]) -> None:
    """Do ``action``, a run, which is to be interrupted after ``step`` steps."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(Interrupted):
            action()


def stop_after(patch: pytest.MonkeyPatch, step: int) -> None:
    """Every run of this process is interrupted after ``step`` steps of its own."""
    one_step_a_call(patch)
    patch.setattr("lean_mnist.training.run.StopRequest", lambda: Stop(step))


def one_step_a_call(patch: pytest.MonkeyPatch) -> None:
    """Kernels in C return after every step, and whoever wants to stop is heard."""
    patch.setattr(native, "_SECONDS", 0.0)


def after_updates(patch: pytest.MonkeyPatch, do: Callable[[int, FlatParameters[Any]], None]) -> None:
    """``do(number, parameters)`` after every update of all runs, in C or as written, counted from 1."""
    one_step_a_call(patch)
    numbers, waiting = itertools.count(1), list[FlatParameters[Any]]()

    def flush() -> None:
        while waiting:
            do(next(numbers), waiting.pop())

    def applied(self: Update, rate: float) -> None:
        apply(self, rate)
        if self.flat is not None:  # else the update that the engine's is compared with
            do(next(numbers), self.flat)

    def updated(self: NativeEngine, rate: float) -> None:
        in_c = self._rule() is not None and not self.refused
        update(self, rate)
        if in_c:
            do(next(numbers), self._parameters)

    def called(self: NativeEngine, work: Work, threads: int) -> None:
        flush()
        take_steps(self, work, threads)
        if work.taken and work.update and not work.seconds:  # else a comparison, which takes no step
            waiting.append(self._parameters)

    def taken(self: NativeEngine, *arguments: Any, **options: Any) -> StepChunk:
        chunk = take_chunk(self, *arguments, **options)
        flush()  # after what the engine does when a chunk ends
        return chunk

    apply, update, take_steps, take_chunk = Update.apply, NativeEngine.update, NativeEngine._call, NativeEngine.chunk
    patch.setattr(Update, "apply", applied)
    for name, replacement in (("update", updated), ("_call", called), ("chunk", taken)):
        patch.setattr(NativeEngine, name, replacement)


def spoil_weights(patch: pytest.MonkeyPatch, step: int, value: float) -> None:
    """Puts ``value`` in the place of a weight after that many updates."""

    def spoil(number: int, parameters: FlatParameters[Any]) -> None:
        if number == step:
            parameters.vector.detach()[5 * 128 + 3] = value

    after_updates(patch, spoil)


class Result(NamedTuple):
    """Outcome of a command."""

    status: int
    out: str
    err: str


def call(
    main: Callable[[], None], arguments: list[str], patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Result:
    """A command in this process: ``main`` as ``python -m`` would run it with ``arguments``."""
    patch.setattr(sys, "argv", ["command", *arguments])
    capsys.readouterr()
    status: Any = 0
    try:
        run_command(main)
    except SystemExit as stop:
        status = stop.code
    return Result(status, *capsys.readouterr())


def surroundings() -> dict[str, str]:
    """The environment of a program of its own: one thread, no ``LEAN_MNIST_DATA``."""
    environment = {name: value for name, value in os.environ.items() if name != "LEAN_MNIST_DATA"}
    return {**environment, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
