"""A callback for the Hugging Face trainer: ``Trainer(..., callbacks=[GradientMonitorCallback(every=100)])``.

The error leaves ``backward()`` and so reaches the loop before the optimizer's step. Needs the extra ``huggingface``.
"""

from typing import Any

from lean_mnist.crosscheck.monitor import GradientMonitor

try:
    from transformers import TrainerCallback  # type: ignore[import-not-found, unused-ignore]
except ModuleNotFoundError as missing:
    if missing.name != "transformers":
        raise  # it is there, and something that it needs is not
    raise ImportError("transformers is not installed; pip install 'lean_mnist[huggingface]'") from None

_TrainerCallback: Any = TrainerCallback


class _Monitor(GradientMonitor):
    """Detaches itself when it stops the training, for the trainer tells no callback that it was stopped."""

    def _check_pending(self, *arguments: Any) -> None:
        try:
            super()._check_pending(*arguments)
        except BaseException:
            self.detach()
            raise


class GradientMonitorCallback(_TrainerCallback):  # type: ignore[misc]
    """Attaches a ``GradientMonitor`` to the trainer's model while it trains; arguments are the monitor's.

    A forward is one call of the model: with ``gradient_accumulation_steps`` there are several to an optimizer's step.
    Evaluation does not count. ``monitor`` is the one of the last training, with its ``history``. The trainer tells no
    callback of exceptions; where the model is used on after one that is not the monitor's, Ctrl-C included, train
    inside of ``with callback:``, or call ``detach()``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.monitor: GradientMonitor | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any = None, **others: Any) -> None:
        """Attach a monitor."""
        self.detach()
        self.monitor = _Monitor(model, **self.options)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Detach it."""
        self.detach()

    def detach(self) -> None:
        """Remove the monitor's hooks, if there are any."""
        if self.monitor is not None:
            self.monitor.detach()

    def __enter__(self) -> "GradientMonitorCallback":
        return self

    def __exit__(self, *raised: object) -> None:
        self.detach()
