"""Optional packages, imported only where a file's format needs one."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from lean_mnist.errors import DataError
from lean_mnist.reading.text import shown


def optional_package(name: str, path: str | Path) -> ModuleType:
    """The module ``name``, which reads ``path``; where it is missing, ``DataError`` says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise DataError(f"{shown(path)}: the package {package} reads it; pip install 'lean_mnist[import]'") from None
