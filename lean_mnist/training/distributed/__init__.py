"""A run in many processes, under ``torchrun``; begin with ``world``."""

from lean_mnist.training.distributed.torchrun import from_environment
from lean_mnist.training.distributed.world import Share, World

__all__ = ["Share", "World", "from_environment"]
