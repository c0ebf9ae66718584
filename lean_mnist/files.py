"""Atomic writing of files, by a temporary file and a rename; conversion of values to what JSON can hold."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path``: whatever happens, the file there is the old one or the new one, never a part.

    The temporary file stands in the same folder, so that the rename is one operation of one file system. Raises
    ``OSError`` (disk full, folder not writable) with the old file untouched and the temporary one removed.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only the owner can read
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise
    _sync_folder(path.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    # The rename itself is on disk only when the folder is. Not every system lets a folder be opened for that.
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def errors_named(name: str) -> Iterator[None]:
    """Where the system's errors do not say of which file they are, it is ``name``."""
    try:
        yield
    except OSError as error:
        error.filename = name
        raise


def plain(value: Any) -> Any:
    """``value`` as JSON has it: enums by their values, dataclasses by their fields, "nan", "inf" and "-inf" as such."""
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
