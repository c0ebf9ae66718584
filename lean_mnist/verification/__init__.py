"""Obligations: every statement LEAN_mnist makes, turned into a check of this project's own code.

An :class:`Obligation` says what is claimed, how it is established, for which sizes, and on what that rests; its
``check()`` runs the code of ``chainrule``, ``nn`` and ``training`` itself, never a copy of a formula kept for checking.
``python -m lean_mnist.verify`` prints the table. SymPy is needed, and imported only when obligations are loaded.
"""

from lean_mnist.verification.model import Obligation, ObligationFailed, Outcome, Vacuous
from lean_mnist.verification.report import Report, verify
from lean_mnist.verification.table import obligations, select, vacuous_statements

__all__ = [
    "Obligation",
    "ObligationFailed",
    "Outcome",
    "Report",
    "Vacuous",
    "obligations",
    "select",
    "vacuous_statements",
    "verify",
]
