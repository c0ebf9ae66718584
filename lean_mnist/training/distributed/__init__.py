"""A run in many processes, under ``torchrun``; begin with ``world``."""

from lean_mnist.training.distributed.world import World, from_environment

__all__ = ["World", "from_environment"]
