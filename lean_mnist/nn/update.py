"""One update of a network's parameters: gradient → finite? → clip → learning rate → optimizer.

Everything that trains moves its parameters by :class:`Update`: the trainer, steps taken several at a time, PAC-Bayes,
quantised networks and the self-test of the checks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from lean_mnist.nn.parameters import FlatParameters
from lean_mnist.nn.sgd import SGD


class Optimizer(Protocol):
    """Interface of an optimizer for updates; those of ``torch.optim`` and :class:`~lean_mnist.nn.sgd.SGD` have it."""

    param_groups: list[dict[str, Any]]

    def step(self) -> Any:
        """Move the parameters by their gradients."""

    def state_dict(self) -> dict[str, Any]:
        """Everything it needs to go on, as plain values and tensors."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Go on from a ``state_dict``."""


class Update:
    """Moves the parameters of ``model`` by the gradients that stand in their ``.grad``.

    Ask :meth:`is_finite` before :meth:`apply`, where no gate has tested that already.

    Args:
        model: has the parameters.
        optimizer: of ``flat.vector``, or of the parameters of ``model``.
        clip_norm: the largest norm of the whole gradient; a longer one is scaled down to it. ``None``: never.
        flat: the parameters of ``model`` as one vector, where they are one.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        clip_norm: float | None = None,
        flat: FlatParameters[Any] | None = None,
    ) -> None:
        self.optimizer, self._clip_norm, self._flat = optimizer, clip_norm, flat
        self._moved = list(model.parameters()) if flat is None else [flat.vector]

    def is_finite(self, loss: float) -> bool:
        """Whether the loss and the sum of the gradient are finite; see :func:`has_finite_sum`."""
        if self._flat is not None:
            return math.isfinite(loss) and has_finite_sum(self._flat.gradient)
        return math.isfinite(loss) and all(has_finite_sum(p.grad) for p in self._moved if p.grad is not None)

    def apply(self, rate: float) -> None:
        """Clip, set the learning rate, step, and bring the new weights to the copy that steps are computed with."""
        if self._clip_norm is not None:
            clip_gradient(self._moved, self._clip_norm)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        if self._flat is not None:
            self._flat.vector_to_network()

    def apply_on_device(self, loss: Tensor, rate: Tensor, failed: Tensor) -> None:
        """The whole update without waiting for the device, for captured steps; of our ``SGD`` and a flat vector only.

        ``rate`` is a float32 of one element. ``failed``, a scalar, becomes 1 if ``loss`` or the gradient is not finite;
        while it is 1 the weights stay as they are.
        """
        assert self._flat is not None
        assert isinstance(self.optimizer, SGD)
        finite = torch.isfinite(loss) & torch.isfinite(self._flat.gradient.sum())
        failed.copy_(torch.where(finite, failed, torch.ones_like(failed)))
        if self._clip_norm is not None:
            clip_gradient(self._moved, self._clip_norm)
        self.optimizer.step_at(rate, unless=failed)
        self._flat.vector_to_network()


def has_finite_sum(gradient: Tensor) -> bool:
    """Whether the sum is finite. It is only if every term is; if it is not, a sum of finite terms may have overflowed.

    It is cheap: each core adds up the part that it has just computed.
    """
    return math.isfinite(gradient.sum().item())


def not_finite(model: nn.Module, loss: float, step: int, cause: str = "") -> str:
    """Message: what is not finite at step number ``step``, and its ``cause``; empty if everything is finite."""
    untouched = "the weights are as they were before this step"
    if not math.isfinite(loss):
        return f"step {step}: the loss is {loss}; {untouched}"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"step {step}: the gradient of {name} is not finite{cause}; {untouched}"
    return ""


def clip_gradient(parameters: Sequence[nn.Parameter], longest: float) -> None:
    """Scale the gradient of all ``parameters`` down to the norm ``longest`` if it is longer."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    norm = torch.linalg.vector_norm(gradients[0]) if len(gradients) == 1 else get_total_norm(gradients)
    clip_grads_with_norm_(parameters, longest, norm)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Use ``rate`` for every parameter from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
