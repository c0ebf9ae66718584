"""Checks of the trainer's own steps, before a gradient reaches the weights.

``StepAudit`` checks a step against an independent reference, ``RandomisedCheck`` checks every step by random
projections. Both run the one list of local checks, of a step that is described by a ``ComputedStep``.
"""
