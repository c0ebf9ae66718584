"""Folders of a run, under ``runs`` and ``checkpoints``: the use of them by one process, and sinks that write there."""

import contextlib
import errno
import itertools
import json
import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lean_mnist.data.names import dataset_name
from lean_mnist.errors import ConfigError, LeanMnistError
from lean_mnist.files import is_at, is_leftover, plain, sync_folder, write_atomically
from lean_mnist.reading.text import shown
from lean_mnist.training.config import Config
from lean_mnist.training.distributed import World
from lean_mnist.training.generations import Generations
from lean_mnist.training.sinks.json_lines import FILE as METRICS
from lean_mnist.training.sinks.json_lines import JsonLinesSink
from lean_mnist.training.sinks.progress import progress_sink
from lean_mnist.training.sinks.records import Notice, Record, Sink
from lean_mnist.training.sinks.tensorboard import TensorBoardSink
from lean_mnist.training.sinks.trackers import open_trackers

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
_FLAGS = os.O_RDWR | os.O_CREAT | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))


class InUse(Exception):
    """Another process has the lock; the message says which."""


class FolderLock:
    """Lock (``flock``) on the file ``.lock`` in ``folder``, taken by being made; raises ``InUse`` or ``OSError``."""

    def __init__(self, folder: Path) -> None:
        # Not exclusive where the system or the file system has no such locks: then nobody is kept out.
        self.folder, self.exclusive = folder, fcntl is not None
        self._path = folder / LOCK
        while True:
            self._descriptor = os.open(self._path, _FLAGS, 0o666)
            try:
                if fcntl is not None:
                    self._lock()
                # Whoever had it may have removed the file after we opened it: then another can have one of that name.
                if self.is_held():
                    os.ftruncate(self._descriptor, 0)
                    os.write(self._descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
                    return
            except BaseException:
                os.close(self._descriptor)
                raise
            os.close(self._descriptor)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            named = re.fullmatch(rb"(\d{1,10}) ([\w.-]{1,99})\n", os.read(self._descriptor, 200))
            who = f"process {named[1].decode()} on {named[2].decode()}" if named else "another process"
            raise InUse(f"{self.folder} is in use by {who}") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            self.exclusive = False

    def is_held(self) -> bool:
        """True if the folder, with this lock in it, is still where it was."""
        return is_at(self._descriptor, self._path)

    def release(self) -> None:
        """Give the folder free; one with nothing in it goes, unless it may be another's."""
        with contextlib.suppress(OSError):
            if self.is_held():
                os.unlink(self._path)
                if self.exclusive:
                    os.rmdir(self.folder)
        os.close(self._descriptor)


class RunFolder:
    """Folders of a run: ``folder`` and that of its ``checkpoints``, both called ``name``; locked while entered.

    The writer makes them by ``claim`` or ``reopen``; ``place`` tells the other processes where they are.
    """

    name: str
    folder: Path
    checkpoints: Path
    generations: Generations
    ended_before = False  # in an earlier session, so that the records of its end are there already

    def __init__(self) -> None:
        self._locks: list[FolderLock] = []
        self._sinks: list[Sink] = []
        self._progress = Sink()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *error: object) -> None:
        gone = [] if error_type else [lock.folder for lock in self._locks if not lock.is_held()]
        try:
            # Where a full disk has ended the run, it would say so again.
            with contextlib.suppress(*(() if error_type is None else (OSError,))):
                self.close_sinks()
        finally:
            if self._locks:
                self.generations.close()
            while self._locks:
                self._locks.pop().release()
        if gone:
            raise LeanMnistError(f"{gone[0]}: deleted while the run was using it; what was in it is lost")

    def place(self, config: Config, name: str) -> None:
        """Say where the folders are."""
        self.name, self.folder = name, Path(config.runs_dir) / name
        self.checkpoints = Path(config.checkpoints_dir) / name
        self.generations = Generations(self.checkpoints)

    def claim(self, config: Config) -> str:
        """Make and lock the folders of a new run, which are never another's; returns its name.

        Those that a killed run has left before its first checkpoint are taken over. Raises ``ConfigError`` where a
        name that was asked for is taken, or the folders cannot be made.
        """
        name = config.run_name or f"{dataset_name(config.dataset)}-{time.strftime('%Y%m%d-%H%M%S')}"
        for number in itertools.count(1):
            self.place(config, name if number == 1 else f"{name}-{number}")
            taken = self._take(self.folder) or self._take(self.checkpoints)
            if not taken:
                break
            while self._locks:
                self._locks.pop().release()
            if config.run_name is not None:
                raise ConfigError(f"--run-name {name}: {taken}")
        return self.name

    def _take(self, folder: Path, *, anew: bool = True) -> str:
        """Make and lock a folder, whose content is that of a run only if not ``anew``; returns why it cannot be had."""
        try:
            made = _make(folder)
            lock = FolderLock(folder)
            self._locks.append(lock)
            found = set(os.listdir(folder)) - {LOCK}
            if anew and not made and not (lock.exclusive and all(map(is_leftover, found))):
                return f"{folder} exists already; choose another name, or --resume {self.name}"
            _clean(folder)
        except InUse as error:
            return str(error)
        except (OSError, ValueError) as error:
            raise _unusable(folder, error) from None
        return ""

    def reopen(self) -> None:
        """Lock the folders of a run that goes on; raises ``ConfigError`` where another process has them."""
        for folder in (self.folder, self.checkpoints):
            if taken := self._take(folder, anew=False):
                raise ConfigError(f"{taken}; one run goes on in one process at a time")

    def open_sinks(
        self, config: Config, steps: int, done: int, logs: Mapping[str, int] | None, world: World, *, fresh: bool
    ) -> None:
        """Open the sinks, those of files on the writer alone.

        ``done`` of the run's ``steps`` were made before; the log files then had the sizes ``logs`` (``None``: unknown),
        and what was written later goes. With ``fresh`` they begin anew.
        """
        self.close_sinks()

        def open_files() -> None:  # one by one, so that those already open are closed if the next cannot be
            at = None if fresh else done
            self._sinks.append(TensorBoardSink(self.folder, at, logs))
            self._sinks.append(JsonLinesSink(self.folder / METRICS, at, (logs or {}).get(METRICS)))
            for tracker in open_trackers(config, self.folder, fresh=fresh):
                self._sinks.append(tracker)

        quiet = config.quiet or not world.is_writer
        self._progress = progress_sink(dataset_name(config.dataset), config.epochs, steps, done, quiet)
        self._sinks.append(self._progress)
        if not self.ended_before:
            for name, size in {} if fresh or not world.is_writer else (logs or {}).items():
                found = (self.folder / name).stat().st_size if (self.folder / name).is_file() else 0
                if found < size:
                    self.say(f"{self.folder / name}: expected {size:,} bytes, found {found:,}; records are lost", done)
            world.on_writer(open_files)

    def end_progress(self) -> None:
        """Close what shows a person how far the run is, because its end is told now."""
        self._sinks.remove(self._progress)
        self._progress.close()
        self._progress = Sink()

    def close_sinks(self) -> None:
        """Close the sinks, all of them; raises the first error of one."""
        with contextlib.ExitStack() as stack:
            while self._sinks:
                stack.callback(self._sinks.pop().close)

    def emit(self, record: Record) -> None:
        """Give a record to every sink."""
        for sink in self._sinks:
            sink.write(record)

    def say(self, text: str, step: int, kind: str = "warning") -> None:
        """Tell whoever looks on something that is no part of the run's records: a ``warning`` or a ``note``."""
        self._progress.write(Notice(step, f"run/{kind}", text))

    def flush(self) -> tuple[dict[str, int], str]:
        """Make sure that all records so far are on disk; returns the files' sizes, and which file was deleted."""
        sizes, deleted = dict[str, int](), ""
        for sink in self._sinks:
            try:
                sizes |= sink.flush()
            except FileNotFoundError as error:
                deleted = deleted or str(error.filename)
        return sizes, deleted

    def remake_checkpoints(self) -> bool:
        """Make and lock the folder of the checkpoints again if it was deleted, and tell; another is refused."""
        if self._locks[-1].is_held():
            return False
        self._locks.pop().release()
        if self.checkpoints.exists() or self._take(self.checkpoints):
            raise LeanMnistError(f"{self.checkpoints}: another folder has taken its place; what was in it is lost")
        return True

    def write_json(self, name: str, values: Any) -> None:
        """Write ``values`` as the file ``name`` of the run's folder."""
        text = json.dumps(plain(values), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(self.folder / name, f"{text}\n".encode())


def _make(folder: Path) -> bool:
    """Make a folder, and those it is in; returns whether it was not there."""
    if not folder.parent.exists():
        _make(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    sync_folder(folder.parent)
    return True


def _unusable(folder: Path, error: OSError | ValueError) -> ConfigError:
    reason = (error.strerror if isinstance(error, OSError) else "") or error  # ValueError: a null byte in the path
    return ConfigError(f"{shown(folder)}: expected a folder that can be written, found: {reason}")


def _clean(folder: Path) -> None:
    """Remove the temporary files of killed processes."""
    for name in filter(is_leftover, os.listdir(folder)):
        with contextlib.suppress(OSError):
            (folder / name).unlink()
