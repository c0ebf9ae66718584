"""Shared by the tests of ``lean_mnist.crosscheck``: random steps, and the same network in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lean_mnist.nn import MLP
from lean_mnist.nn.step import Batch, StepTape, shares_of
from tests.support.activations import TORCH_ACTIVATIONS


def random_batch(seed: int, examples: int, sizes: Sequence[int], dtype: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, sizes[0], generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, sizes[-1], (examples,), generator=generator)


def autograd_step(model: MLP, batches: Sequence[Batch]) -> tuple[Tensor, list[StepTape]]:
    """Put the gradient of the mean loss of all of ``batches`` into ``.grad`` through autograd; the loss, and tapes."""
    model.zero_grad(set_to_none=True)
    tapes = [StepTape(labels, share) for (_, labels), share in zip(batches, shares_of(batches), strict=True)]
    mean = torch.zeros((), dtype=batches[0][0].dtype)
    for (x, labels), tape in zip(batches, tapes, strict=True):
        loss = model.loss(x, labels, tape=tape)
        loss.backward(torch.full_like(loss, tape.upstream))
        mean = mean + tape.upstream * loss.detach()
    return mean, tapes


@torch.no_grad()
def descend(model: MLP, rate: float) -> None:
    """A step of plain gradient descent."""
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.sub_(rate * parameter.grad)


def random_model(
    seed: int, sizes: Sequence[int], activation: str = "relu", dtype: torch.dtype = torch.float32, **options: Any
) -> MLP:
    """A network whose biases are not zero, as they are after a few steps."""
    model = MLP(sizes, activation, seed=seed, dtype=dtype, **options)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for _, bias in model.weights_and_biases():
            if bias is not None:
                bias.copy_(0.1 * torch.randn(bias.shape, generator=generator, dtype=torch.float64))
    return model


def layers_of(model: MLP) -> list[tuple[Tensor, Tensor | None]]:
    return [(w.detach(), None if b is None else b.detach()) for w, b in model.weights_and_biases()]


def plain_loss(loss: Any, layers: Any, x: Tensor, labels: Tensor) -> Tensor:
    """The loss as a PyTorch user would write it."""
    h = x
    for weight, bias in layers[:-1]:
        h = TORCH_ACTIVATIONS[loss.activation](F.linear(h, weight, bias))
    logits = F.linear(h, *layers[-1])
    penalty = loss.logit_penalty / 2 * (logits * logits).sum(1).mean()
    return F.cross_entropy(logits, labels, label_smoothing=loss.label_smoothing) + penalty
