"""What a measured accuracy says about unseen data: bounds, who pays for which look, certificates and their checker.

``bounds``, ``solve``, ``ledger`` and ``checker`` need the standard library only; whatever decides in them is exact
rational arithmetic, or integers rounded in a stated direction.
"""
