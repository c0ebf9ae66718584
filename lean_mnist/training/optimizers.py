"""The optimizers of ``torch.optim`` that a configuration can name."""

from __future__ import annotations

from collections.abc import Iterable

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


def gradients_of(parameters: Iterable[nn.Parameter]) -> list[torch.Tensor]:
    """The gradients that are there, in order."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
