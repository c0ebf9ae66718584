"""The optimizers of ``torch.optim`` that a configuration can name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn, optim

from lean_mnist.training.config import Config


def build_optimizer(config: Config, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
    """A ``torch.optim`` optimizer with the configuration's settings, in PyTorch's fused form where it has one."""
    parameters = list(parameters)
    lr, decay, momentum = config.learning_rate, config.weight_decay, config.momentum
    if config.optimizer == "rmsprop":  # the one without a fused form
        return optim.RMSprop(parameters, lr=lr, weight_decay=decay, momentum=momentum)
    if config.optimizer == "sgd":
        nesterov = config.nesterov and momentum > 0
        return optim.SGD(parameters, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=decay, fused=True)
    adam: type[optim.Adam] = optim.AdamW if config.optimizer == "adamw" else optim.Adam
    return adam(parameters, lr=lr, betas=(momentum, 0.999), weight_decay=decay, fused=True)


def set_learning_rate(optimizer: optim.Optimizer, lr: float) -> None:
    """Use ``lr`` for every parameter from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def mover(optimizer: optim.Optimizer) -> Callable[[float], None]:
    """What takes one step of ``optimizer`` at a given learning rate."""
    (group,) = optimizer.param_groups

    def move(lr: float) -> None:
        group["lr"] = lr
        optimizer.step()

    if not isinstance(optimizer, optim.SGD) or len(group["params"]) != 1:
        return move
    (parameter,) = group["params"]
    options = {name: group[name] for name in ("weight_decay", "momentum", "dampening", "nesterov", "maximize")}
    vector, gradient, state = parameter.detach(), parameter.grad, optimizer.state

    def move_at_once(lr: float) -> None:
        kept = state[parameter].get("momentum_buffer") if options["momentum"] else None
        if parameter.grad is not gradient or (options["momentum"] and kept is None):  # it makes the momentum
            return move(lr)
        # The kernel that optimizer.step() comes to, without the way there, which takes longer than the kernel.
        torch._fused_sgd_([vector], [gradient], [] if kept is None else [kept], lr=lr, is_first_step=False, **options)
        group["lr"] = lr
        return None

    return move_at_once


def gradients_of(parameters: Iterable[nn.Parameter]) -> list[torch.Tensor]:
    """The gradients that are there, in order."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
