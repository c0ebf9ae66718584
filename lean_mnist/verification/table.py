"""The table of obligations: which there are, and how some of them are picked."""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Sequence

from lean_mnist.errors import ConfigError, nearest
from lean_mnist.verification.model import Obligation, Vacuous

# In the order of the table; a group is the part of an id before its first dot.
_MODULES = (
    "gradients",
    "network",
    "linear_algebra",
    "layers",
    "loss_properties",
    "shapes",
    "convergence",
    "tensors",
    "originals",
)
TITLES = {
    "gradient": "Gradient correctness",
    "linear-algebra": "Linear algebra",
    "layer": "Layer properties",
    "loss": "Loss properties",
    "types": "Types",
    "convergence": "Convergence",
    "tensors": "From formulas to tensors",
    "original": "False statements of the original",
}


def obligations() -> list[Obligation]:
    """All obligations, in the order of the table; raises ``ConfigError`` where SymPy is missing."""
    _need_sympy()
    modules = (importlib.import_module(f"{__package__}.{name}") for name in _MODULES)
    return [obligation for module in modules for obligation in module.obligations()]


def vacuous_statements() -> list[Vacuous]:
    """Statements of the original that say less than their names; raises ``ConfigError`` where SymPy is missing."""
    _need_sympy()
    found: list[Vacuous] = importlib.import_module(f"{__package__}.originals").vacuous_statements()
    return found


def select(everything: Sequence[Obligation], pattern: str) -> list[Obligation]:
    """Those whose group or id is ``pattern``, or whose id fits it (``*`` and ``?``); ``ConfigError`` if none does."""
    chosen = [o for o in everything if pattern == o.group or fnmatch.fnmatchcase(o.id, pattern)]
    if not chosen:
        groups = list(dict.fromkeys(o.group for o in everything))
        known = [*groups, *(o.id for o in everything)]
        raise ConfigError(
            f"--only: expected an id, a pattern such as 'loss.*', or one of {', '.join(groups)}, "
            f"found {pattern!r}{nearest(pattern, known)}"
        )
    return chosen


def _need_sympy() -> None:
    try:
        importlib.import_module("sympy")
    except ImportError:
        raise ConfigError(
            "python -m lean_mnist.verify proves with SymPy, which is missing: pip install sympy"
        ) from None
