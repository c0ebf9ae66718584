"""A file of records that grows, and is cut back to where a checkpoint left it."""

import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lean_mnist.files import errors_named, is_at, sync_folder

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_FLAGS |= sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
_MOST, _MOST_SECONDS = 512, 10.0  # held back, so that a long epoch can be watched


class LogFile:
    """The file at ``path``, of which the first ``size`` bytes stay and the rest is cut off; made if it is not there.

    What is written is held back, and made bytes by ``encode`` many at a time: a step does not wait for it. It is on
    disk after ``flush``. Raises ``OSError``, always with the file's name.
    """

    def __init__(self, path: Path, size: int = 0, encode: Callable[[Sequence[Any]], bytes] = b"".join) -> None:
        self.path, self._encode, self._written = path, encode, time.monotonic()
        self._items: list[Any] = []
        self._pending = bytearray()
        with errors_named(str(path)):
            self._descriptor = os.open(path, _FLAGS, 0o666)
            try:
                found = os.fstat(self._descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise OSError(errno.EINVAL, "expected a file, found a pipe, socket or device")
                self.size = min(size, found.st_size)  # of what is in the file
                os.ftruncate(self._descriptor, self.size)
                sync_folder(path.parent)
            except BaseException:
                os.close(self._descriptor)
                raise

    def write(self, item: Any) -> None:
        """Append what ``encode`` makes of ``item``, which stays as it is."""
        self._items.append(item)
        if len(self._items) > _MOST or time.monotonic() - self._written > _MOST_SECONDS:
            self._write()

    def _write(self) -> None:
        items, self._items = self._items, []
        self._pending += self._encode(items) if items else b""
        with errors_named(str(self.path)):
            while self._pending:
                count = os.write(self._descriptor, self._pending)
                self.size += count
                del self._pending[:count]
        self._written = time.monotonic()

    def flush(self) -> None:
        """Put everything on disk; raises ``FileNotFoundError`` where the file was deleted meanwhile."""
        self._write()
        with errors_named(str(self.path)):
            os.fsync(self._descriptor)
            if not is_at(self._descriptor, self.path):
                raise FileNotFoundError(errno.ENOENT, "it was deleted while the run wrote into it")

    def close(self) -> None:
        """Write what is left, and close the file."""
        try:
            self._write()
        finally:
            os.close(self._descriptor)
