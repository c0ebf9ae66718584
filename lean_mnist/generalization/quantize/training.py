"""A plain training loop for networks of few bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lean_mnist.data.batches import Batches
from lean_mnist.data.datasets import Split
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import ConfigError, HealthError
from lean_mnist.generalization.quantize.modules import QuantizedMLP
from lean_mnist.generalization.spaces.network import QuantizedNetwork


@dataclass(frozen=True)
class QuantizedTraining:
    """How a network of few bits is trained."""

    bits: int
    hidden: tuple[int, ...] = (10,)
    bias: bool = False
    rule: str = "normal"
    epochs: int = 20
    batch_size: int = 128
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 2e-5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ConfigError(f"epochs, batch_size: {self.epochs}, {self.batch_size}, expected at least 1")


def train_quantized(
    train: Split, recipe: QuantizedTraining, *, classes: int = 10, maximum: int = 255
) -> QuantizedNetwork:
    """Train by SGD with Nesterov momentum and a cosine schedule; the result is a network of ``recipe.bits`` bits.

    Weights are rounded in every forward pass, and what is returned is exactly what the last step left. The same seed
    gives the same network on the same machine. Raises ``HealthError`` if the loss stops being finite.
    """
    features = train.images[0].numel()
    model = QuantizedMLP(
        (features, *recipe.hidden, classes),
        bits=recipe.bits,
        rule=recipe.rule,
        maximum=maximum,
        bias=recipe.bias,
        seed=recipe.seed,
    )
    batches = Batches(train, Normalization("unit", 0.0, float(maximum)), recipe.batch_size, recipe.seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs * batches.steps_per_epoch)
    for epoch in range(recipe.epochs):
        for x_BD, labels_B in batches.epoch(epoch):
            optimizer.zero_grad()
            loss: Tensor = model.loss(x_BD, labels_B)
            if not torch.isfinite(loss):
                raise HealthError(f"loss: {loss.item()} in epoch {epoch + 1}, expected a finite number; lower lr")
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.quantized()
