"""What tests of the obligations share: obligations that come out as told, and the result of a call of the command."""

from __future__ import annotations

from typing import Any, NamedTuple

from lean_mnist.verification import Obligation
from lean_mnist.verification.model import Refuted


class Call(NamedTuple):
    """What a call of the command came to."""

    status: int
    out: str
    err: str


def holds() -> str:
    return "because"


def is_false() -> str:
    raise Refuted("it is not so", "2 instead of 3 at x = 1")


def breaks() -> str:
    raise ZeroDivisionError("in the code\nunder test")


def an_obligation(run: Any, expected: Any = "holds", name: str = "loss.some", **fields: Any) -> Obligation:
    """An obligation whose check is ``run``."""
    values = {
        "id": name,
        "statement": "1 + 1 = 2",
        "source": "arithmetic",
        "how": "symbolic",
        "scope": "for all n",
        "assumptions": ("counting works",),
        "run": run,
        "expected": expected,
    }
    return Obligation(**{**values, **fields})
