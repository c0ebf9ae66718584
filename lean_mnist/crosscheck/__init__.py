"""Cross-checking: is a hand-written gradient the gradient, and if not, which tensor is wrong, where, and by how much.

``check_function`` checks any ``torch.autograd.Function`` once. While a network trains, ``StepScreen`` checks every step
that is about to be applied, for the cost of matrix–vector products, and ``TrainingCheck`` audits steps in full.
"""

from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.crosscheck.function_check import FunctionReport, check_function
from lean_mnist.crosscheck.screen import ScreenResult, StepScreen
from lean_mnist.crosscheck.training_check import CheckResult, TrainingCheck
from lean_mnist.errors import GradientMismatch

__all__ = [
    "CheckResult",
    "Divergence",
    "FunctionReport",
    "GradientMismatch",
    "ScreenResult",
    "StepScreen",
    "TrainingCheck",
    "check_function",
]
