"""One update of a network's parameters: gradient → finite? → clip → learning rate → optimizer; of all that trains."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from lean_mnist.nn.parameters import FlatParameters
from lean_mnist.torch_internals import fused_sgd


class SGD:
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD(fused=True)``: ``g ← g + λθ``, ``v ← μv + g``.

    Then ``θ ← θ − ηv``, or with Nesterov's momentum ``θ ← θ − η (g + μv)``; the first ``v`` is ``g`` (Sutskever et al.,
    2013, as PyTorch has it). The same kernel (``torch_internals.fused_sgd``) and the same ``state_dict``.
    ``parameters`` must keep their memory.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, nesterov: bool, weight_decay: float
    ) -> None:
        self._parameters = list(parameters)
        self._values = [parameter.detach() for parameter in self._parameters]
        self.momentum: list[Tensor] = []
        self.rule: dict[str, Any] = {
            "momentum": momentum, "dampening": 0, "weight_decay": weight_decay, "nesterov": nesterov, "maximize": False,
        }  # fmt: skip
        self.param_groups: list[dict[str, Any]] = [{"lr": lr, "params": self._parameters}]

    @property
    def state(self) -> Mapping[nn.Parameter, Mapping[str, Any]]:
        """Tensors kept for each parameter, as of ``torch.optim.SGD``."""
        return {p: {"momentum_buffer": v} for p, v in zip(self._parameters, self.momentum, strict=False)}

    @property
    def started(self) -> bool:
        """True if it has what it needs besides the gradients: momentum, where it is to have some."""
        return bool(self.momentum) or not self.rule["momentum"]

    def momentum_from_start(self) -> Tensor | None:
        """Momentum of the one parameter, zeros before the first step; ``None`` where it has none."""
        if not self.started:
            self.momentum = [torch.zeros_like(value) for value in self._values]
        return self.momentum[0] if self.rule["momentum"] else None

    def step_at(self, lr: Tensor, unless: Tensor) -> None:
        """Move every parameter, once ``started``, with the float32 in ``lr``, unless that in ``unless`` is 1."""
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
        fused_sgd(values, gradients, self.momentum, is_first_step=first, **self.rule, **options)

    def state_dict(self) -> dict[str, Any]:
        """As of ``torch.optim.SGD``: its settings, and each parameter's ``momentum_buffer``."""
        options = {**self.rule, "lr": self.param_groups[0]["lr"], "foreach": None, "differentiable": False}
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


class Optimizer(Protocol):
    """Interface of an optimizer for updates; those of ``torch.optim`` and :class:`SGD` have it."""

    param_groups: list[dict[str, Any]]

    @property
    def state(self) -> Mapping[Any, Mapping[str, Any]]:
        """Tensors kept for each parameter, by name."""

    def step(self) -> Any:
        """Move the parameters by their gradients."""

    def state_dict(self) -> dict[str, Any]:
        """Everything it needs to go on, as plain values and tensors."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Go on from a ``state_dict``."""


@dataclass
class Update:
    """Moves the parameters of ``model`` by the gradients that stand in their ``.grad``.

    Ask :meth:`is_finite` before :meth:`apply`, where no gate has tested that already.
    """

    model: nn.Module
    optimizer: Optimizer  # of ``flat.vector``, or of the parameters of ``model``
    clip_norm: float | None = None  # the largest norm of the whole gradient; a longer one is scaled down to it
    flat: FlatParameters[Any] | None = None  # the parameters of ``model`` as one vector, where they are one
    moved: Callable[[], None] | None = None  # to be called when parameters or the optimizer's state have been written

    def __post_init__(self) -> None:
        self._moved = list(self.model.parameters()) if self.flat is None else [self.flat.vector]

    def is_finite(self, loss: float) -> bool:
        """True if the loss and the sum of the gradient are finite; see :func:`has_finite_sum`."""
        return math.isfinite(loss) and all(has_finite_sum(p.grad) for p in self._moved if p.grad is not None)

    def apply(self, rate: float) -> None:
        """Clip, set the learning rate, step, and bring the new weights to the copy that steps are computed with."""
        if self.clip_norm is not None:
            clip_gradient(self._moved, self.clip_norm)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        if self.flat is not None:
            self.flat.vector_to_network()
        if self.moved is not None:
            self.moved()

    def apply_on_device(self, loss: Tensor, rate: Tensor, failed: Tensor) -> None:
        """The whole update without waiting for the device, for captured steps; of our ``SGD`` and a flat vector only.

        ``rate`` is a float32 of one element. ``failed``, a scalar, becomes 1 if ``loss`` or the gradient is not finite;
        while it is 1 the weights stay as they are.
        """
        assert self.flat is not None
        assert isinstance(self.optimizer, SGD)
        finite = torch.isfinite(loss) & torch.isfinite(self.flat.gradient.sum())
        failed.copy_(torch.where(finite, failed, torch.ones_like(failed)))
        if self.clip_norm is not None:
            clip_gradient(self._moved, self.clip_norm)
        self.optimizer.step_at(rate, unless=failed)
        self.flat.vector_to_network()


def has_finite_sum(gradient: Tensor) -> bool:
    """True if the sum is finite: then every term is; if it is not, a sum of finite terms may have overflowed."""
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
