"""Cross-checking: is a hand-written gradient the gradient, and if not, which tensor is wrong, where, and by how much.

``check_function`` checks any ``torch.autograd.Function`` once; ``GradientMonitor`` checks those of any model in
anybody's training loop. In our own, ``TrainingCheck`` audits steps, and ``StepScreen`` checks every step for the
cost of matrix–vector products.
"""

from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.crosscheck.function_check import FunctionReport, check_function
from lean_mnist.crosscheck.monitor import GradientMonitor
from lean_mnist.crosscheck.screen import ScreenResult, StepScreen
from lean_mnist.crosscheck.training_check import CheckResult, TrainingCheck
from lean_mnist.errors import GradientMismatch

__all__ = [
    "CheckResult",
    "Divergence",
    "FunctionReport",
    "GradientMismatch",
    "GradientMonitor",
    "ScreenResult",
    "StepScreen",
    "TrainingCheck",
    "check_function",
]
