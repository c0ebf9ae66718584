"""Obligations that come out as told."""

from lean_mnist.verification.model import Check, Obligation, Refuted, Truth


def holds() -> str:
    """A check that passes."""
    return "because"


def is_false() -> str:
    """A check that refutes."""
    raise Refuted("it is not so", "2 instead of 3 at x = 1")


def breaks() -> str:
    """A check under which the code breaks."""
    raise ZeroDivisionError("in the code\nunder test")


def an_obligation(run: Check, expected: Truth = Truth.HOLDS, name: str = "loss.some") -> Obligation:
    """An obligation whose check is ``run``."""
    return Obligation(
        name, "1 + 1 = 2", "arithmetic", "for all n", run, assumptions=("counting works",), expected=expected
    )
