"""Sinks: each draws records in one place."""

from lean_mnist.training.sinks.json_lines import JsonLinesSink
from lean_mnist.training.sinks.progress import progress_sink
from lean_mnist.training.sinks.tensorboard import TensorBoardSink

__all__ = ["JsonLinesSink", "TensorBoardSink", "progress_sink"]
