"""Names of functions, ``module:name`` or ``path/to/file.py:name``: found by a user's word, never by a file's."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import BuiltinFunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from lean_mnist.crosscheck.subjects.calls import one_line
from lean_mnist.errors import ArgumentError, nearest

_FROM_FILES = dict[str, ModuleType]()  # the latest by its name


def import_path(function: Callable[..., Any]) -> str | None:
    """``"module:qualified.name"`` of ``function``, for people; ``None`` where it has no name outside of its program."""
    owner = getattr(function, "__self__", None)
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "<unnamed>")
    if isinstance(owner, type):
        module, name = owner.__module__, f"{owner.__qualname__}.{name.rpartition('.')[2]}"
    elif isinstance(function, BuiltinFunctionType):  # as most of PyTorch's, whose class is of no interest
        module, name = module or "torch", name.rpartition(".")[2]
    return None if module == "__main__" or "<" in name else f"{module}:{name}"


def named(path: str, what: str) -> Any:
    """The thing that ``path`` names; ``ArgumentError`` says what is missing, or what the import raised and where."""
    where, _, name = path.rpartition(":")
    if not (where and name):
        raise ArgumentError(f"{what}: expected module:name or file.py:name, found {path!r}")
    found = _imported(where, what)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ArgumentError(f"{what}: {where} has no {name}{nearest(part, dir(found))}")
        found = getattr(found, part)
    return found


def resolve(path: str, what: str) -> Callable[..., Any]:
    """The function that ``path`` names; of a ``torch.autograd.Function``, its ``apply``. Raises ``ArgumentError``."""
    found = named(path, what)
    if isinstance(found, type) and issubclass(found, torch.autograd.Function):
        return found.apply
    if isinstance(found, type) and issubclass(found, nn.Module):
        raise ArgumentError(
            f"{what}: expected a function or a module, found {path}, a class; name an instance, as of norm = Norm(8)"
        )
    if not callable(found):
        raise ArgumentError(f"{what}: expected a function, found {path}, a {type(found).__name__}")
    return found


def _imported(where: str, what: str) -> Any:
    """The module of that name, or the one in the file ``where``, beside which its own imports are found."""
    file = Path(where)
    try:
        if file.suffix != ".py":
            return importlib.import_module(where)
        if not file.is_file():
            raise ArgumentError(f"{what}: {where}: no such file")
        sys.path.insert(0, str(file.resolve().parent))
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        if _FROM_FILES.get(file.stem) is sys.modules.get(file.stem):  # another of that name is the program's own
            sys.modules[file.stem] = _FROM_FILES[file.stem] = module
        spec.loader.exec_module(module)
    except ArgumentError:
        raise
    except ImportError as error:
        raise ArgumentError(f"{what}: cannot import {where} ({one_line(error)})") from None
    except (Exception, SystemExit) as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(at.filename).name}, line {at.lineno}"
        words = f"{type(error).__name__}: {one_line(error)}"
        raise ArgumentError(f"{what}: cannot import {where} ({words}, at {place})") from error
    return module
