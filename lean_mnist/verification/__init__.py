"""Obligations: each statement of the Lean development LEAN_mnist, checked again on this project's own code.

An ``Obligation`` (:mod:`.model`) says what is claimed, how it is established, for which sizes, and on what that rests;
its ``check()`` runs the code of ``chainrule``, ``nn`` and ``training`` itself, never a copy of a formula kept for
checking. ``python -m lean_mnist.verify`` prints the table. SymPy is needed, and imported only when obligations are
loaded. The statements are in ``statements``, one module a group; the ways to establish them in ``methods``.
"""

from lean_mnist.verification.report import verify as verify
