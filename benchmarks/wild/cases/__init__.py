"""The cases, one module a kind of package; packages are imported when a case is built."""

from __future__ import annotations

import importlib
import pkgutil

from benchmarks.wild.case import Case


def all_cases() -> tuple[Case, ...]:
    """Every case, by package and name. Raises ``ValueError`` if two have the same."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    cases = sorted((case for module in modules for case in module.CASES), key=lambda case: case.key.lower())
    keys = [case.key for case in cases]
    if len(set(keys)) < len(keys):
        raise ValueError(f"two cases of one name: {sorted({key for key in keys if keys.count(key) > 1})}")
    return tuple(cases)
