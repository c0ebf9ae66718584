"""A Lightning callback: ``Trainer(callbacks=[GradientMonitorCallback(every=100)])``.

The error leaves ``backward()``, under automatic and manual optimization alike, and so reaches the loop before the
optimizer's step. Needs the extra ``lightning``.
"""

import importlib
from collections.abc import Callable
from typing import Any

from lean_mnist.crosscheck.monitor import GradientMonitor
from lean_mnist.crosscheck.monitor.schedule import regular


def _callback_class() -> Any:
    for name in ("lightning.pytorch", "pytorch_lightning"):  # the package was renamed, and both are in use
        try:
            return importlib.import_module(name).Callback
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise  # it is there, and something that it needs is not
    raise ImportError("Lightning is not installed; pip install 'lean_mnist[lightning]'")


_Callback: Any = _callback_class()


class GradientMonitorCallback(_Callback):  # type: ignore[misc]
    """Attaches a ``GradientMonitor`` while a ``LightningModule`` is fitted.

    It checks ``every`` so many training batches, the first one included; or those of whose number (from 0, over all
    epochs of one fit) the function ``every`` says so; by default as ``at_most`` allows. With
    ``accumulate_grad_batches`` a batch is one backward. The other ``options`` are those of ``GradientMonitor``.

    ``monitor`` is the one of the last fit, with its ``history``. Where ``training_step`` calls the module itself, once
    a batch, a report's ``step`` is the batch's number; where it calls several parts, each call counts as one.
    Raises ``ArgumentError`` for an ``every`` that makes no sense.
    """

    def __init__(self, every: int | Callable[[int], bool] | None = None, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.monitor: GradientMonitor | None = None
        self._every = None if every is None else regular(every)
        self._batches = 0
        self._due = False

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach a monitor."""
        self._detach()
        self._batches = 0
        # ``training_step`` may call the module itself or any parts of it. Batches are counted here, for of two parts
        # that are called one after the other an even ``every`` would check one only.
        entries = [pl_module, *(part for part in pl_module.modules() if part is not pl_module)]
        every = None if self._every is None else lambda _: self._due
        self.monitor = GradientMonitor(pl_module, every=every, entries=entries, **self.options)
        self.monitor.enabled = self._every is not None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Count the batch, and decide whether it is checked."""
        every, number = self._every, self._batches
        self._due = every is not None and every(number)
        self._batches += 1
        if every is None and self.monitor is not None:
            self.monitor.enabled = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Check nothing until the next batch."""
        self._due = False  # a validation step may enable gradients
        if self._every is None and self.monitor is not None:
            self.monitor.enabled = False

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Detach the monitor."""
        self._detach()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Detach the monitor."""
        self._detach()

    def _detach(self) -> None:
        self._due = False
        if self.monitor is not None:
            self.monitor.detach()
