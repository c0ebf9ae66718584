"""Reading files from elsewhere: bounded in size, and with optional packages only where a format needs one."""

from __future__ import annotations

import gzip
import importlib
import io
import zlib
from pathlib import Path
from types import ModuleType

from lean_mnist.errors import DataError

LARGEST = 1 << 28  # bytes, unpacked


def read_bytes(path: str | Path, what: str, *, packed: bool = False, largest: int | None = None) -> bytes:
    """The content of ``path``, unpacked if ``packed``.

    Raises ``DataError`` if it cannot be read or is larger than ``largest`` bytes, 256 MiB if not given.
    """
    limit = LARGEST if largest is None else min(largest, LARGEST)
    try:
        with open(path, "rb") as file:
            content = _limited(file, limit, path, what)
        if packed:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as unpacked:
                content = _limited(unpacked, limit, path, what)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error}), expected {what}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}), expected {what}") from None
    return content


def optional_package(name: str, path: str | Path) -> ModuleType:
    """The module ``name``, which reads ``path``; where it is missing, ``DataError`` says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise DataError(f"{path}: the package {package} reads it; pip install 'lean_mnist[import]'") from None


def one_line(name: str) -> str:
    """``name`` as it is if it is plain ASCII, else with escapes; different names stay different."""
    return name.encode("unicode_escape").decode("ascii")


def _limited(file: io.BufferedIOBase, limit: int, path: str | Path, what: str) -> bytes:
    content = file.read(limit + 1)
    if len(content) > limit:
        raise DataError(f"{path}: more than {limit >> 20} MiB, expected {what}")
    return content
