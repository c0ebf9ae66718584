"""The screen of every training step; begin with ``step_screen``."""

from lean_mnist.audit.screen.links import ScreenFailure
from lean_mnist.audit.screen.step_screen import CLOSE_LOOK_EVERY, ScreenResult, StepScreen

__all__ = ["CLOSE_LOOK_EVERY", "ScreenFailure", "ScreenResult", "StepScreen"]
