"""Is the trainer's own step right? ``TrainingCheck`` audits a step; ``StepScreen`` checks every step by probes."""

from lean_mnist.audit.screen import ScreenResult, StepScreen
from lean_mnist.audit.training_check import CheckResult, TrainingCheck

__all__ = ["CheckResult", "ScreenResult", "StepScreen", "TrainingCheck"]
