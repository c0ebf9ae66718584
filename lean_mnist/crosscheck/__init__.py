"""Cross-checking: is a hand-written gradient the gradient, and if not, which tensor is wrong, where, and by how much.

``check_function`` checks any ``torch.autograd.Function`` once; ``TrainingCheck`` checks the step that is about to be
applied, while a network trains.
"""

from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.crosscheck.function_check import FunctionReport, check_function
from lean_mnist.crosscheck.training_check import CheckResult, TrainingCheck
from lean_mnist.errors import GradientMismatch

__all__ = ["CheckResult", "Divergence", "FunctionReport", "GradientMismatch", "TrainingCheck", "check_function"]
