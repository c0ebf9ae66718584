"""SGD equal to ``torch.optim.SGD(fused=True)``, with lighter imports and an optional learning rate on the device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lean_mnist.torch_internals import fused_sgd


class SGD:
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD(fused=True)``: ``g ← g + λθ``, ``v ← μv + g``.

    Then ``θ ← θ − ηv``, or with Nesterov's momentum ``θ ← θ − η (g + μv)``; the first ``v`` is ``g`` (Sutskever et al.,
    2013, as PyTorch has it). The same kernel and the same ``state_dict``; but making one of ``torch.optim``'s imports
    PyTorch's compiler, which takes two seconds and 150 MB, and its ``step`` takes longer than the kernel.
    ``parameters`` must keep their memory.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, nesterov: bool, weight_decay: float
    ) -> None:
        self._parameters = list(parameters)
        self._values = [parameter.detach() for parameter in self._parameters]
        self.momentum: list[Tensor] = []
        self._rule: dict[str, Any] = {
            "momentum": momentum, "dampening": 0, "weight_decay": weight_decay, "nesterov": nesterov, "maximize": False,
        }  # fmt: skip
        self.param_groups: list[dict[str, Any]] = [{"lr": lr, "params": self._parameters}]

    @property
    def started(self) -> bool:
        """Whether it has what it needs besides the gradients: momentum, where it is to have some."""
        return bool(self.momentum) or not self._rule["momentum"]

    def step_at(self, lr: Tensor, unless: Tensor) -> None:
        """Move every parameter, once ``started``, with the number in ``lr``; not if that in ``unless`` is 1.

        Both stay on their device: float32, of one element.
        """
        self._move(lr=lr, found_inf=unless)

    def step(self) -> None:
        """Move every parameter that has a gradient; either all of them have one, or none."""
        self._move(lr=self.param_groups[0]["lr"])

    def _move(self, **options: Any) -> None:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        values = self._values if gradients else []
        first = not self.started
        if first:
            self.momentum = [torch.empty_like(value) for value in values]
        fused_sgd(values, gradients, self.momentum, is_first_step=first, **self._rule, **options)

    def state_dict(self) -> dict[str, Any]:
        """As of ``torch.optim.SGD``: its settings, and each parameter's ``momentum_buffer``."""
        options = {**self._rule, "lr": self.param_groups[0]["lr"], "foreach": None, "differentiable": False}
        group = {**options, "fused": True, "params": list(range(len(self._parameters)))}
        return {"state": {i: {"momentum_buffer": v} for i, v in enumerate(self.momentum)}, "param_groups": [group]}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Take momentum and learning rate from a ``state_dict``."""
        self.param_groups[0]["lr"] = state_dict["param_groups"][0]["lr"]
        state = state_dict["state"]
        self.momentum = [
            torch.empty_like(value).copy_(state[i]["momentum_buffer"])
            for i, value in enumerate(self._values)
            if state.get(i, {}).get("momentum_buffer") is not None
        ]
