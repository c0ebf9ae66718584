"""Calls of our own Functions that no training step makes, for ``check_function``: layouts, shapes, reductions.

Each case is a function, the same in plain PyTorch, and inputs. A layout of the upstream gradient is brought about as it
is in real programs, by what the caller does with the output: transposing it, concatenating it, summing it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lean_mnist.nn import functional

SEED = 0


@dataclass(frozen=True)
class Case:
    """``function`` and ``reference`` take ``inputs``; ``condition`` is what it is there to bring about."""

    name: str
    condition: str
    function: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    inputs: tuple[Any, ...]


def _mlp(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return functional.mlp(x, [(w1, b1), (w2, b2)])


def _plain_mlp(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return F.linear(torch.relu(F.linear(x, w1, b1)), w2, b2)


def _inputs(*shapes: Sequence[int], frozen: Sequence[int] = ()) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(SEED)
    return tuple(
        (0.7 * torch.randn(*shape, generator=generator)).requires_grad_(index not in frozen)
        for index, shape in enumerate(shapes)
    )


def _network(batch: int, *, features: int = 6, hidden: int = 5, frozen: Sequence[int] = ()) -> tuple[Tensor, ...]:
    return _inputs((batch, features), (hidden, features), (hidden,), (4, hidden), (4,), frozen=frozen)


def _after_ones(y: Tensor, axis: int) -> Tensor:
    return torch.cat([torch.ones_like(y), y], axis) if y.dim() else y


USES: tuple[tuple[str, str, Callable[[Tensor], Tensor]], ...] = (
    ("logits, transposed", "transposed upstream", lambda y: y.transpose(0, -1) if y.dim() else y),
    ("logits, summed", "expanded upstream", torch.sum),
    ("logits beside others in one tensor", "after torch.cat", partial(_after_ones, axis=-1)),
    ("logits below others in one tensor", "upstream inside a larger tensor", partial(_after_ones, axis=0)),
    ("logits, scaled down", "upstream < 1e-6", lambda y: 1e-9 * y),
    ("logits, unused", "upstream = 0", lambda y: y * torch.zeros_like(y)),
)
"""Uses that a caller makes of a Function's output, named for our logits, with the condition that each brings about."""


def _used(name: str, condition: str, use: Callable[[Tensor], Tensor]) -> Case:
    return Case(name, condition, lambda *i: use(_mlp(*i)), lambda *i: use(_plain_mlp(*i)), _network(7))


def cases() -> list[Case]:
    """All cases, their inputs drawn anew."""
    labels = torch.tensor([0, 3, 1, 2, 1, 0, 3])
    return [
        Case("logits of a network", "upstream varies", _mlp, _plain_mlp, _network(7)),
        Case(
            "one loss an example",
            "upstream varies by example",
            lambda x, w1, b1, w2, b2: functional.mlp_loss(x, labels, [(w1, b1), (w2, b2)], reduction="none"),
            lambda *inputs: F.cross_entropy(_plain_mlp(*inputs), labels, reduction="none"),
            _network(7),
        ),
        Case("logits of 20 examples", "upstream rows not divisible by 16", _mlp, _plain_mlp, _network(20)),
        Case("one example", "input of one row", _mlp, _plain_mlp, _network(1)),
        Case("200 hidden units", "more than 128 columns", _mlp, _plain_mlp, _network(7, hidden=200)),
        Case("a frozen bias", "frozen parameter", _mlp, _plain_mlp, _network(7, frozen=(2,))),
        Case("an empty batch", "empty batch", _mlp, _plain_mlp, _network(0)),
        *(_used(*use) for use in USES),
        Case("dense", "always", functional.dense, F.linear, _inputs((5, 7), (6, 7), (6,))),
        Case("relu of two axes", "always", functional.relu, torch.relu, _inputs((5, 7))),
        Case("relu of four axes", "more than 3 axes", functional.relu, torch.relu, _inputs((2, 3, 4, 5))),
        Case("softmax", "always", functional.softmax, lambda s: torch.softmax(s, 1), _inputs((5, 7))),
        Case(
            "cross-entropy of logits",
            "always",
            lambda s: functional.cross_entropy(s, labels, reduction="none"),
            lambda s: F.cross_entropy(s, labels, reduction="none"),
            _inputs((7, 4)),
        ),
    ]
