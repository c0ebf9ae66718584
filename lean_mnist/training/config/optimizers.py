"""The optimizers that a configuration can name."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lean_mnist.nn.update import SGD, Optimizer
from lean_mnist.training.config import Config


def build_optimizer(config: Config, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimizer of a configuration, in PyTorch's fused form where it has one."""
    lr, decay, momentum = config.learning_rate, config.weight_decay, config.momentum
    if config.optimizer == "sgd":
        return SGD(parameters, lr, momentum, config.nesterov and momentum > 0, decay)
    from torch import optim

    if config.optimizer == "rmsprop":  # the one without a fused form
        return optim.RMSprop(parameters, lr=lr, weight_decay=decay, momentum=momentum)
    adam: type[optim.Adam] = optim.AdamW if config.optimizer == "adamw" else optim.Adam
    return adam(parameters, lr=lr, betas=(momentum, 0.999), weight_decay=decay, fused=True)
