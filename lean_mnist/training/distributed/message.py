"""The message in which every rank tells the others about a step, and the verdict that follows from all of them.

The functions here are pure, and every rank calls them with the same messages, so all ranks come to the same verdict.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.training.distributed.digest import PROJECTIONS, tolerance

_DIGEST = PROJECTIONS + 1
_ROW = struct.Struct(f"=6q{1 + 2 * _DIGEST}d")


class Message(NamedTuple):
    """One rank's account of a step: its part of the batch, digests of its gradient and of the sum that it got."""

    step: int
    examples: int  # in its part
    total: int  # in the global batch
    refused: bool  # its checks refuse the step
    stop: bool  # it was asked to stop
    bits: int  # of the reduced gradient
    loss: float
    own_digests: list[float]  # of its own gradient, then its norm
    reduced_digests: list[float]  # of the reduced gradient, then its norm

    @property
    def weight(self) -> float:
        """This rank's share of the global batch."""
        return self.examples / self.total

    @property
    def norm(self) -> float:
        """Of its own gradient."""
        return self.own_digests[PROJECTIONS]


def pack(integers: Sequence[int], bits: Tensor, loss: Tensor, own_digests: Tensor, reduced_digests: Tensor) -> Tensor:
    """The row that is sent: int64, on the CPU, floats by their bits. ``integers`` are the first five of ``Message``."""
    floats = torch.cat([loss.detach().double().reshape(1), own_digests, reduced_digests]).tolist()
    return torch.frombuffer(bytearray(_ROW.pack(*integers, int(bits), *floats)), dtype=torch.int64)


def unpack(table: Tensor) -> list[Message]:
    """The messages of all ranks, from their rows (N, F)."""
    return [
        Message(step, examples, total, bool(refused), bool(stop), bits, loss, digests[:_DIGEST], digests[_DIGEST:])
        for step, examples, total, refused, stop, bits, loss, *digests in _ROW.iter_unpack(table.numpy().tobytes())
    ]


def mean_loss(messages: Sequence[Message]) -> float:
    """Over the global batch; summed in the order of the ranks, so that it is the same number everywhere."""
    return math.fsum(message.weight * message.loss for message in messages if message.examples)


def misfit(messages: Sequence[Message]) -> str:
    """Why the ranks' parts are not those of one batch; empty if they are."""
    steps = [message.step for message in messages]
    if len(set(steps)) > 1:
        return f"the ranks are at different steps: {', '.join(map(str, steps))}"
    total, parts = messages[0].total, [message.examples for message in messages]
    if any(message.total != total for message in messages) or sum(parts) != total:
        of = ", ".join(f"{message.examples} of {message.total}" for message in messages)
        return f"the ranks' parts do not make up one batch: {of} examples"
    return ""


def wrong_sums(messages: Sequence[Message], size: int, dtype: torch.dtype) -> list[int]:
    """The ranks whose reduced gradient is not the weighted sum of the ranks' own, by its digests."""
    taking_part = [message for message in messages if message.examples]
    expected = [math.fsum(m.weight * m.own_digests[k] for m in taking_part) for k in range(PROJECTIONS)]
    allowed = tolerance(size, dtype, len(messages), math.fsum(m.weight * m.norm for m in taking_part))
    return [
        rank
        for rank, message in enumerate(messages)
        if not all(abs(message.reduced_digests[k] - expected[k]) <= allowed for k in range(PROJECTIONS))  # NaN is wrong
    ]


def odd_ones(values: Sequence[object]) -> list[int]:
    """The ranks whose value is not that of most; of equally many, not that of rank 0."""
    usual = max(values, key=values.count)
    return [rank for rank, own in enumerate(values) if own != usual]
