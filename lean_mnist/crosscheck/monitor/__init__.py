"""The hand-written gradients of any model, checked while somebody else's loop trains it."""

from lean_mnist.crosscheck.monitor.gradient_monitor import GradientMonitor as GradientMonitor
