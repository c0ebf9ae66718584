"""Configuration of a run: its fields, where they come from, and the schedules and optimizers that they name.

Importing this imports no PyTorch, so that ``--help`` answers at once.
"""

from lean_mnist.training.config.config import DEFAULT_LR, MAY_CHANGE_ON_RESUME, Config

__all__ = ["DEFAULT_LR", "MAY_CHANGE_ON_RESUME", "Config"]
