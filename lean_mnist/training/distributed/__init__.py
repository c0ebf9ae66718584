"""A run in many processes, under ``torchrun``; begin with ``world``."""

from lean_mnist.training.distributed.world import Share, World, from_environment

__all__ = ["Share", "World", "from_environment"]
