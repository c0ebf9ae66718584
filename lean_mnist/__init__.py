"""lean_mnist: train a network whose gradients are written by hand, and know at every step that they are right."""

from lean_mnist.interrupts import end_at_once_while_starting

end_at_once_while_starting()

import importlib  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

from lean_mnist.version import __version__  # noqa: E402

__all__ = ["MLP", "__version__", "load_checkpoint", "load_dataset"]

if TYPE_CHECKING:
    from lean_mnist.data.datasets import load_dataset
    from lean_mnist.nn import MLP
    from lean_mnist.training.checkpoints import load_checkpoint


# PyTorch is imported when something of it is asked for, so that ``--help`` answers at once.
_PLACES = {"MLP": "nn", "load_checkpoint": "training.checkpoints", "load_dataset": "data.datasets"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
