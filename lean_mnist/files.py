"""Atomic writing of files, by a temporary file and a rename; conversion of values to JSON and of pictures to PNG."""

import contextlib
import dataclasses
import errno
import io
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

# Names of the temporary files of the two functions below.
_LEFTOVER = re.compile(r"\..+\.(?:[a-z0-9_]{8}|link)\.tmp")


def write_atomically(path: Path, content: bytes, *, previous: Path | None = None) -> None:
    """Put ``content`` at ``path``: whatever happens, the file there is the old one or the new one, never a part.

    The old file goes on as ``previous``, if that is given. Raises ``OSError``, which names ``path``, with the old file
    untouched and the temporary one, in the same folder, removed. A device is never replaced.
    """
    with errors_named(str(path)):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError(errno.EINVAL, "expected a file, found a pipe, socket or device")
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.umask(mask := os.umask(0))
            os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes files that only the owner can read
            if previous is not None:
                keep_as(path, previous)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)


def keep_as(path: Path, kept: Path) -> None:
    """Let the file at ``path``, if there is one, have the name ``kept`` as well; without links, that name alone."""
    link = kept.with_name(f".{kept.name}.link.tmp")
    try:
        link.unlink(missing_ok=True)
        os.link(path, link)
        os.replace(link, kept)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, kept)
    finally:
        with contextlib.suppress(OSError):  # it is still there where both were the same file
            link.unlink(missing_ok=True)


def is_at(descriptor: int, path: Path) -> bool:
    """True if the open file is, still, the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def is_leftover(name: str) -> bool:
    """True if ``name`` is that of a temporary file, which a killed process has left."""
    return _LEFTOVER.fullmatch(name) is not None


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder are on disk, where the system lets a folder be opened for that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def errors_named(name: str) -> Iterator[None]:
    """The system's errors name the file ``name``, rather than a temporary one or none."""
    try:
        yield
    except OSError as error:
        error.filename = name
        if error.filename2 is not None:  # a second name, of a rename
            error.filename2 = None
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


def png(picture: Any) -> bytes:
    """A picture, uint8 ``(height, width, 3)`` or ``(height, width)``, as a PNG file, packed quickly."""
    from PIL import Image

    packed = io.BytesIO()
    Image.fromarray(picture).save(packed, format="PNG", compress_level=1)
    return packed.getvalue()
