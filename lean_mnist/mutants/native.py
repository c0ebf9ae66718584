"""Faults planted in the kernels in C: their source with a part replaced, compiled."""

import ctypes
import tempfile
from collections.abc import Callable
from pathlib import Path

from lean_mnist.nn.engine import native
from lean_mnist.nn.engine.library import load_library


def in_c(right: str, wrong: str) -> dict[str, Callable[[], ctypes.CDLL]]:
    """A fault to be planted, so that the native engine has ``wrong`` where ``kernels.c`` has ``right``, once."""
    return {"nn.engine.native.load_kernels": lambda: kernels_with(right, wrong)}


def kernels_with(right: str, wrong: str) -> ctypes.CDLL:
    """The library of ``kernels.c`` with ``wrong`` in place of ``right``, which is there exactly once."""
    source = (native.HERE / "kernels.c").read_text()
    assert source.count(right) == 1, f"{right!r} is {source.count(right)} times in kernels.c"
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder, "kernels.c")
        changed.write_text(source.replace(right, wrong))
        return load_library(changed, native.HERE / "step.h", native.HERE / "team.h")
