"""A callback for the Hugging Face trainer: ``Trainer(..., callbacks=[GradientMonitorCallback(every=100)])``.

The error leaves ``backward()`` and so reaches the loop before the optimizer's step. Needs the extra ``huggingface``.
"""

from __future__ import annotations

from typing import Any

from lean_mnist.crosscheck.monitor import GradientMonitor

try:
    from transformers import TrainerCallback  # type: ignore[import-not-found, unused-ignore]
except ModuleNotFoundError as missing:
    if missing.name != "transformers":
        raise  # it is there, and something that it needs is not
    raise ImportError("transformers is not installed; pip install 'lean_mnist[huggingface]'") from None

_TrainerCallback: Any = TrainerCallback


class GradientMonitorCallback(_TrainerCallback):  # type: ignore[misc]
    """Attaches a ``GradientMonitor`` to the trainer's model while it trains; arguments are the monitor's.

    ``monitor`` is the one of the last training, with its ``history``. Where training ends with an exception, the
    trainer tells no callback so; then ``monitor.detach()`` is for the caller.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.monitor: GradientMonitor | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any = None, **others: Any) -> None:
        if self.monitor is not None:
            self.monitor.detach()
        self.monitor = GradientMonitor(model, **self.options)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self.monitor is not None:
            self.monitor.detach()
