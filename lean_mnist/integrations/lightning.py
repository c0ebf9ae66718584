"""A Lightning callback: ``Trainer(callbacks=[GradientMonitorCallback(every=100)])``.

The error leaves ``backward()`` and so reaches the loop before the optimizer's step. Needs the extra ``lightning``.
"""

from __future__ import annotations

import importlib
from typing import Any

from lean_mnist.crosscheck.monitor import GradientMonitor


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
    """Attaches a ``GradientMonitor`` while a ``LightningModule`` is fitted; arguments are the monitor's.

    ``monitor`` is the one of the last fit, with its ``history``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.monitor: GradientMonitor | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        # ``training_step`` may call the module itself or any part of it.
        entries = [pl_module, *(part for part in pl_module.modules() if part is not pl_module)]
        self.monitor = GradientMonitor(pl_module, entries=entries, **self.options)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._detach()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._detach()

    def _detach(self) -> None:
        if self.monitor is not None:
            self.monitor.detach()
