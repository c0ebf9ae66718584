"""Checks of the trainer's own steps, before a gradient reaches the weights.

:class:`StepAudit` checks a step against an independent reference, :class:`RandomisedCheck` checks every step by random
projections. Both run the one list of local checks, of a step that is described by a :class:`ComputedStep`.
"""

from lean_mnist.audit.diagnosis import StepFault, first_fault
from lean_mnist.audit.gradcheck_piece import GradcheckVerdict
from lean_mnist.audit.local_checks import ComputedStep
from lean_mnist.audit.randomised import RandomisedCheck, RandomisedResult
from lean_mnist.audit.reference import NetworkLoss
from lean_mnist.audit.step_audit import AuditResult, StepAudit

__all__ = [
    "AuditResult",
    "ComputedStep",
    "GradcheckVerdict",
    "NetworkLoss",
    "RandomisedCheck",
    "RandomisedResult",
    "StepAudit",
    "StepFault",
    "first_fault",
]
