"""A run in many processes, under ``torchrun``; begin with ``world``."""

from lean_mnist.training.distributed.group import Group
from lean_mnist.training.distributed.start import start_of
from lean_mnist.training.distributed.torchrun import from_environment
from lean_mnist.training.distributed.world import Reduced, Share, World

__all__ = ["Group", "Reduced", "Share", "World", "from_environment", "start_of"]
