"""A run in many processes, under ``torchrun``; begin with ``world``."""

from lean_mnist.training.distributed.group import Group
from lean_mnist.training.distributed.torchrun import from_environment
from lean_mnist.training.distributed.world import Share, World

__all__ = ["Group", "Share", "World", "from_environment"]
