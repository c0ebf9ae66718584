"""Statements about unseen data from a measured accuracy: bounds, the confidence budget, certificates and their checker.

Whatever decides in ``bounds``, ``solve`` and ``confidence`` is rational or ball arithmetic; ``checker`` needs nothing
but the standard library, and decides in integers rounded in a stated direction.
"""
