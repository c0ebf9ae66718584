"""The cache: what can be made again at any time, kept because making it takes a while. It decides nothing."""

import contextlib
import hashlib
import mmap
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CACHE_VARIABLE = "LEAN_MNIST_CACHE"  # names the folder; empty: nothing is kept
_DIGEST = 32  # bytes of SHA-256, of the entry's name and content, behind the content
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))


def cache_folder() -> Path | None:
    """The folder of the cache, made if need be, readable by its owner alone; ``None`` where nothing can be kept.

    It is the one that the environment variable ``LEAN_MNIST_CACHE`` names, otherwise ``lean_mnist`` in
    ``$XDG_CACHE_HOME`` or ``~/.cache``. What lies there may be code that is run, so it has to be this user's, no other
    may write to it, and none could put another in its place.
    """
    if not hasattr(os, "getuid"):  # Windows, where who may write is not in the mode
        return None
    given, base = os.environ.get(CACHE_VARIABLE), os.environ.get("XDG_CACHE_HOME", "")
    if given == "":
        return None
    try:
        place = Path(given or Path(base if os.path.isabs(base) else "~/.cache", "lean_mnist")).expanduser()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = place.resolve(strict=True)
        own = _is_kept_from_others(place, sticky=False) and os.stat(place).st_uid == os.getuid()
        safe = own and all(_is_kept_from_others(parent, sticky=True) for parent in place.parents)
        return place if safe and os.access(place, os.R_OK | os.W_OK | os.X_OK) else None
    except (OSError, ValueError, RuntimeError):  # a null byte in the path; no home, or a circle of links
        return None


def recall(name: str) -> memoryview | None:
    """Content kept as ``name``, mapped into memory (writable, the file stays); ``None`` where it is not there whole.

    Its SHA-256 is compared, and the file is this user's and nobody else may write to it.
    """
    folder = cache_folder()
    if folder is None:
        return None
    try:
        descriptor = os.open(folder / name, _FLAGS)
        try:
            found = os.fstat(descriptor)
            own = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if not (own and stat.S_ISREG(found.st_mode) and found.st_size > _DIGEST):
                return None
            whole = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY))
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return None
    content = whole[:-_DIGEST]
    return content if _digest(name, content) == whole[-_DIGEST:] else None


def keep(name: str, *parts: Any) -> None:
    """Keep the bytes of ``parts``, one after another, as ``name``; where that cannot be, nothing happens."""
    folder = cache_folder()
    if folder is None:
        return
    with contextlib.suppress(OSError), _writing_into(folder):
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines((*parts, _digest(name, *parts)))
            os.replace(temporary, folder / name)
        except BaseException:
            os.unlink(temporary)
            raise


@contextlib.contextmanager
def _writing_into(folder: Path) -> Iterator[None]:
    """Share the lock of those who write into ``folder``; whoever finds it free removes what killed ones have left."""
    import fcntl  # not on Windows, where there is no cache

    descriptor = os.open(folder, _FLAGS)
    try:
        with contextlib.suppress(OSError):  # another is writing, or this file system has no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in folder.glob(".*.????????.tmp"):
                left.unlink()
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _digest(name: str, *parts: Any) -> bytes:
    digest = hashlib.sha256(f"{name}\0".encode())
    for part in parts:
        digest.update(part)
    return digest.digest()


def _is_kept_from_others(folder: Path, *, sticky: bool) -> bool:
    """True if none but this user and the system's can rename what this user has in a folder, ``sticky`` ones or not."""
    found = os.stat(folder)
    shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not (sticky and found.st_mode & stat.S_ISVTX)
    return found.st_uid in (0, os.getuid()) and not shared
