"""This package's own trainer, for the harness: a short run on ``digits``, and all that it leaves."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from lean_mnist import pacbayes, train
from lean_mnist.command_line import run_command
from lean_mnist.training.checkpoints import content_hash
from lean_mnist.training.sinks.dashboard import tag_of
from tests.support.faults.events import read_events

NAME = "a-run"
OPTIONS = (
    "--dataset", "digits", "--limit-train", "200", "--validation-size", "60", "--epochs", "3", "--batch-size", "100",
    "--hidden", "8", "--check", "full", "--check-every", "3", "--gradcheck-every", "50", "--log-every", "1", "--quiet",
)  # fmt: skip
PAC_BAYES_OPTIONS = (
    "--dataset", "digits", "--hidden", "8", "--prior-epochs", "2", "--epochs", "2", "--no-augment", "--draws", "2000",
    "--candidates", "1", "--check", "full", "--check-every", "9", "--quiet",
)  # fmt: skip
# Names of values that are times, or speeds, at any depth; and of records of them.
TIMES = ("seconds", "examples_per_second", "share_of_time", "logs")  # logs: sizes of files, in which times are written
TIMED_RECORDS = ("throughput/examples_per_second", "crosscheck/seconds")


@dataclass(frozen=True)
class OurTrainer:
    """A command that trains, ``python -m lean_mnist.train`` or another, in a process that has imported it already."""

    options: tuple[str, ...] = OPTIONS
    main: Callable[[], None] = train.main

    def start(self, folder: Path) -> None:
        """The command that starts the run; the same one after a kill before the first checkpoint."""
        self._call(*self.options, "--run-name", NAME)

    def resume(self, folder: Path) -> None:
        """The command that resumes it."""
        self._call("--resume", NAME)

    def _call(self, *arguments: str) -> None:
        def main() -> None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self.main()

        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))  # until it is the command that gets it
        with mock.patch.object(sys, "argv", ["command", *arguments]):
            run_command(main)

    def state(self, folder: Path) -> Mapping[str, Any]:
        """Everything in the run's folders, times left out, with hashes of these files by the files' names."""
        return state_of(folder / "runs" / NAME, folder / "checkpoints" / NAME)

    def complaint(self, status: int, error: str) -> str:
        """Status 0, 2 or 130; then at most warnings, one line of an error, one line."""
        return complaint(status, error)


TRAINERS = {"train": OurTrainer(), "pacbayes": OurTrainer(PAC_BAYES_OPTIONS, pacbayes.main)}


def complaint(status: int, error: str) -> str:
    """Faults in a status and in what a command said on standard error; none where both are as documented."""
    lines = error.splitlines()
    warnings = [line for line in lines if line.startswith("warning: ")]
    rest = [line for line in lines if not line.startswith("warning: ")]
    if status not in (0, 2, 130):
        return f"status {status}, expected 0, 2 or 130: {error.strip()[-400:]}"
    if len(rest) != (status != 0):
        return f"status {status} with {len(rest)} lines besides {len(warnings)} warnings: {error.strip()[-400:]}"
    if status == 2 and not rest[0].startswith("error: "):
        return f"status 2 and no error: {rest[0]}"
    if ".tmp" in error:
        return f"a temporary file is named: {error.strip()}"
    return ""


def state_of(run: Path, checkpoints: Path) -> dict[str, Any]:
    """Contents of a run's folders; raises ``OSError`` or ``ValueError`` where a file is missing or damaged."""
    best, last = (torch.load(checkpoints / f"{which}.pt", weights_only=True) for which in ("best", "last"))
    known = {}
    for name, content in (("best", best), ("last", last)):
        if content.pop("content_sha256") != content_hash(content):
            raise ValueError(f"{name}.pt: its content does not have its hash")
    for path in [*run.iterdir(), *checkpoints.iterdir()]:
        if path.is_file():
            known[hashlib.sha256(path.read_bytes()).hexdigest()] = f"the hash of {path.name}"
    for which in ("best", "last"):
        content = torch.load(checkpoints / f"{which}.pt", weights_only=True)
        known[content["content_sha256"]] = f"the content's hash of {which}.pt"
    documents = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in run.glob("*.json")}
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
    if lines.pop():
        raise ValueError("metrics.jsonl: its last line is not whole")
    events = read_events(run)
    found = (path.name for path in [*run.iterdir(), *checkpoints.iterdir()])
    ours = sorted(
        name for name in found if ".previous." not in name and name != ".lock"
    )  # its owner is known to be gone
    values = {
        "files": [name for name in ours if not name.startswith("events.out.tfevents.")],
        "best.pt": best,
        "last.pt": last,
        "metrics.jsonl": [_untimed(json.loads(line)) for line in lines],
        **documents,
        "events": {tag: [_untimed_event(tag, e) for e in found] for tag, found in events.by_tag().items()},
    }
    plain: dict[str, Any] = _plain(values, known)
    return plain


def _untimed(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "value": None} if line["name"] in TIMED_RECORDS else line


def _untimed_event(tag: str, event: tuple[int, str, Any]) -> list[Any]:
    step, kind, value = event
    return [step, kind, None if tag in map(tag_of, TIMED_RECORDS) else value]


def _plain(value: Any, known: Mapping[str, str]) -> Any:
    """Times left out, tensors by their hashes, known hashes by the names of what they are of."""
    if isinstance(value, torch.Tensor):
        return content_hash(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, known) for key, item in value.items() if key not in TIMES}
    if isinstance(value, (list, tuple)):
        return [_plain(item, known) for item in value]
    return known.get(value, value) if isinstance(value, str) else value
