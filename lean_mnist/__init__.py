"""lean_mnist: train a network whose gradients are written by hand, and know at every step that they are right."""

from __future__ import annotations

from lean_mnist.interrupts import end_at_once_while_starting

end_at_once_while_starting()

from typing import TYPE_CHECKING, Any  # noqa: E402

from lean_mnist.version import __version__  # noqa: E402

__all__ = ["MLP", "__version__", "load_checkpoint", "load_dataset"]

if TYPE_CHECKING:
    from lean_mnist.data.datasets import load_dataset
    from lean_mnist.nn import MLP
    from lean_mnist.training.checkpoints import load_checkpoint


def __getattr__(name: str) -> Any:
    # PyTorch is imported when something of it is asked for, so that ``--help`` answers at once.
    if name == "MLP":
        from lean_mnist.nn import MLP

        return MLP
    if name == "load_checkpoint":
        from lean_mnist.training.checkpoints import load_checkpoint

        return load_checkpoint
    if name == "load_dataset":
        from lean_mnist.data.datasets import load_dataset

        return load_dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
