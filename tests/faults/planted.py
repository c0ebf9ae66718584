"""A trainer of twenty lines with a checkpoint and a log, right or with a planted fault, for the harness to find."""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

STEPS = 6


class Fault(Enum):
    """What is wrong with a trainer."""

    NONE = "nothing"
    TORN = "writes its checkpoint in place"
    UNSYNCED = "renames what is not yet on disk"
    DOUBLED = "does not take back the log's lines that come after its checkpoint"
    STUCK = "refuses a folder that is there already, also where nothing was saved in it"
    LEFT = "leaves temporary files"
    SILENT = "passes over a full disk"
    TRACE = "shows a trace where a disk is full"
    SHORT = "believes that a write takes all that it is given"
    DEAF = "does not lock its folder"


@dataclass(frozen=True)
class Planted:
    """Counts to ``STEPS`` and sums as it goes; ``fault`` is planted."""

    fault: Fault = Fault.NONE

    def start(self, folder: Path) -> None:
        """Begin, unless something was saved."""
        run = Path("run")
        if (run / "state").exists() or (self.fault is Fault.STUCK and run.exists()):
            sys.exit(_said("error: run exists already"))
        self._errors(lambda: self._train(run, 0, 0))

    def resume(self, folder: Path) -> None:
        """Go on from what was saved."""
        run = Path("run")
        if not (run / "state").exists():
            sys.exit(_said("error: run: nothing to resume"))
        try:
            saved = json.loads((run / "state").read_text())
        except ValueError:
            sys.exit(_said("error: run/state: damaged"))
        except OSError as error:
            sys.exit(_said(f"error: run/state: {error.strerror}"))
        self._errors(lambda: self._train(run, saved["step"], saved["total"]))

    def _errors(self, action: Any) -> None:
        try:
            action()
        except OSError as error:
            if self.fault is Fault.TRACE:
                raise
            if self.fault is not Fault.SILENT:
                sys.exit(_said(f"error: run: {error.strerror}"))

    def _train(self, run: Path, step: int, total: int) -> None:
        run.mkdir(exist_ok=True)
        _sync(Path())
        lock = self._lock(run)
        log = run / "log"
        if self.fault is not Fault.DOUBLED or step == 0:
            self._save(log, "".join(f"{n}\n" for n in range(step)))
        for number in range(step, STEPS):
            total += number
            time.sleep(0.001)
            with log.open("ab", buffering=0) as file:
                line = f"{number}\n".encode()
                written = file.write(line)
                if written < len(line) and self.fault is not Fault.SHORT:
                    file.write(line[written:])
                os.fsync(file.fileno())
            self._save(run / "state", json.dumps({"step": number + 1, "total": total}))
        os.close(lock)

    def _lock(self, run: Path) -> int:
        import fcntl

        lock = os.open(run / "lock", os.O_CREAT | os.O_RDWR)
        if self.fault is not Fault.DEAF:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                sys.exit(_said("error: run: another process is at it"))

        return lock

    def _save(self, path: Path, text: str) -> None:
        if self.fault is Fault.TORN:
            path.write_text(text)
            return
        # the same name each time, so that what a killed process left is written over
        temporary = path.with_suffix(f".{os.getpid()}" if self.fault is Fault.LEFT else ".tmp")
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            if self.fault is not Fault.UNSYNCED:
                os.fsync(file.fileno())
        temporary.replace(path)
        if self.fault is not Fault.UNSYNCED:
            _sync(path.parent)

    def state(self, folder: Path) -> Mapping[str, Any]:
        """Checkpoint, log, and names of files."""
        run = folder / "run"
        names = sorted(path.name for path in run.iterdir())
        return {"state": json.loads((run / "state").read_text()), "log": (run / "log").read_text(), "files": names}

    def complaint(self, status: int, error: str) -> str:
        """At most one line of an error, by the status."""
        if status not in (0, 2, 130) or len(error.splitlines()) != (status != 0):
            return f"status {status}: {error[-200:]}"
        return ""


def _said(line: str) -> int:
    print(line, file=sys.stderr)
    return 2


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
