"""Compare hand-written gradients with independent references: the wrong tensor, the place, the size of the error.

``check_function`` checks any ``torch.autograd.Function`` once; ``GradientMonitor`` checks those of any model in
anybody's training loop. Nothing here knows of networks or data of ours; ``lean_mnist.audit`` checks their trainer.
"""

from lean_mnist.crosscheck.bundles.record import record
from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.crosscheck.executions import check_compiled, check_sharded
from lean_mnist.crosscheck.function_check import RULES, check_function
from lean_mnist.crosscheck.module_check import check_module
from lean_mnist.crosscheck.monitor import GradientMonitor
from lean_mnist.crosscheck.report import FunctionReport, Severity, Verdict
from lean_mnist.errors import GradientMismatch

__all__ = [
    "RULES",
    "Divergence",
    "FunctionReport",
    "GradientMismatch",
    "GradientMonitor",
    "Severity",
    "Verdict",
    "check_compiled",
    "check_function",
    "check_module",
    "check_sharded",
    "record",
]
