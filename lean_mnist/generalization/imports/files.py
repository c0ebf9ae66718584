"""Reading a file from elsewhere, up to a size."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

from lean_mnist.errors import DataError

LARGEST = 1 << 28  # bytes, unpacked


def read_bytes(path: str | Path, what: str, *, packed: bool = False) -> bytes:
    """The content of ``path``, unpacked if ``packed``; ``DataError`` if it cannot be read or is larger than 256 MiB."""
    try:
        content = _limited(io.BytesIO(Path(path).read_bytes()), path, what)
        if packed:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                content = _limited(file, path, what)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error}), expected {what}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}), expected {what}") from None
    return content


def one_line(name: str) -> str:
    """``name`` as it is if it is plain ASCII, else with escapes; different names stay different."""
    return name.encode("unicode_escape").decode("ascii")


def _limited(file: io.BytesIO | gzip.GzipFile, path: str | Path, what: str) -> bytes:
    content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise DataError(f"{path}: more than {LARGEST >> 20} MiB, expected {what}")
    return content
