"""The table of obligations, and the selection of some of them."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

from lean_mnist.errors import ConfigError, nearest
from lean_mnist.verification.model import Obligation, Vacuous


def obligations() -> list[Obligation]:
    """All obligations, in the order of the table; raises ``ConfigError`` where SymPy is missing."""
    return [obligation for group in _statements().GROUPS for obligation in group]


def vacuous_statements() -> list[Vacuous]:
    """Statements of the original that say less than their names; raises ``ConfigError`` where SymPy is missing."""
    return list(_statements().VACUOUS)


def titles() -> dict[str, str]:
    """Title of each group, in the order of the table; raises ``ConfigError`` where SymPy is missing."""
    return {group.group: group.title for group in _statements().GROUPS}


def select(everything: Sequence[Obligation], pattern: str) -> list[Obligation]:
    """Those whose group or id is ``pattern``, or whose id fits it (``*`` and ``?``); ``ConfigError`` if none does."""
    chosen = [o for o in everything if pattern == o.group or fnmatch.fnmatchcase(o.id, pattern)]
    if not chosen:
        groups = list(dict.fromkeys(o.group for o in everything))
        raise ConfigError(
            f"--only: expected an id, a pattern such as 'loss.*', or one of {', '.join(groups)}, "
            f"found {pattern!r}{nearest(pattern, [*groups, *(o.id for o in everything)])}"
        )
    return chosen


def _statements() -> Any:
    """The statements, imported when they are needed, since SymPy takes a while."""
    try:
        import sympy  # noqa: F401
    except ImportError:
        raise ConfigError(
            "python -m lean_mnist.verify proves with SymPy, which is missing: pip install sympy"
        ) from None
    from lean_mnist.verification import statements

    return statements
