"""Exclusive use of a folder by one process, which ends with the process at the latest."""

import contextlib
import errno
import os
import re
import socket
from pathlib import Path
from typing import Any

from lean_mnist.files import is_at

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FILE = ".lock"
_FLAGS = os.O_RDWR | os.O_CREAT | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))


class InUse(Exception):
    """Another process has the lock; the message says which."""


class FolderLock:
    """Lock on ``folder``, taken by being made; raises ``InUse`` or ``OSError``.

    It is a lock (``flock``) on the file ``.lock`` in the folder, in which the process is named. ``exclusive`` is false
    where the system or the file system has no such locks: then nobody is kept out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.exclusive = folder, fcntl is not None
        self._path = folder / FILE
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
        """Whether the folder, with this lock in it, is still where it was."""
        return is_at(self._descriptor, self._path)

    def release(self) -> None:
        """Give the folder free; one with nothing in it goes, unless it may be another's."""
        with contextlib.suppress(OSError):
            if self.is_held():
                os.unlink(self._path)
                if self.exclusive:
                    os.rmdir(self.folder)
        os.close(self._descriptor)
