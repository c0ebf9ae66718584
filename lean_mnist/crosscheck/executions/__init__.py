"""One model executed in two ways, which should agree: eager and compiled, on one device and on several."""

from lean_mnist.crosscheck.executions.compiled import check_compiled

__all__ = ["check_compiled"]
