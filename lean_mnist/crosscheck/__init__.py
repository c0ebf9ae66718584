"""Compare hand-written gradients with independent references: the wrong tensor, the place, the size of the error.

``check_function`` checks any ``torch.autograd.Function`` once; ``GradientMonitor`` checks those of any model in
anybody's training loop. Nothing here knows of networks or data of ours; ``lean_mnist.audit`` checks their trainer.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lean_mnist.crosscheck.bundles.record import record
    from lean_mnist.crosscheck.comparison import Divergence
    from lean_mnist.crosscheck.executions import check_compiled, check_sharded
    from lean_mnist.crosscheck.function_check import RULES, check_function, check_module
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

_HOMES = {
    "bundles.record": ("record",),
    "comparison": ("Divergence",),
    "executions": ("check_compiled", "check_sharded"),
    "function_check": ("RULES", "check_function", "check_module"),
    "monitor": ("GradientMonitor",),
    "report": ("FunctionReport", "Severity", "Verdict"),
}


def __getattr__(name: str) -> Any:
    # Imported when it is asked for, so that the help of a command in here need not wait for PyTorch.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
