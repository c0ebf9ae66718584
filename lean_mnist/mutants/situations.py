"""Situations in which a fault shows: conditions, each with a network to train, and calls that no training step makes.

A case is a function, the same in plain PyTorch, and inputs. A layout of the upstream gradient is brought about as it is
in real programs, by what the caller does with the output: transposing it, concatenating it, summing it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.nn import MLP, functional


@dataclass(frozen=True)
class NetworkSpec:
    """The network that is trained, or called, to see whether a fault shows."""

    sizes: tuple[int, ...] = (64, 128, 128, 60, 10)
    activation: str = "relu"
    bias: bool = True
    label_smoothing: float = 0.0
    logit_penalty: float = 0.0

    def build(self, seed: int, dtype: torch.dtype) -> MLP:
        """The network, initialised from ``seed``."""
        return MLP(**vars(self), seed=seed, dtype=dtype)


@dataclass(frozen=True)
class Condition:
    """Condition for a fault to show: ``network`` is trained in the self-test, if ``training`` can show it."""

    network: NetworkSpec = NetworkSpec()
    dtype: torch.dtype = torch.float32
    training: bool = True


# These occur in the training of the ordinary network, at its ordinary steps or at those that are made to differ.
_ORDINARY = (
    *("always", "at random", "first call", "second call", "second step", "third call", "every 50th call"),
    *("after 200 calls", "upstream != 1", "upstream > 1", "accumulated batches", "ragged batch"),
    *("batch not divisible by 16", "activations not a multiple of 256", "batch = width", "width >= 128"),
    *("width not divisible by 8", "square weight", "depth >= 3", "exact kink", "pre-activation in (0, 0.001]"),
    *("bias != 0", "pre-activation > 6", "pre-activation > 20", "logit > 89", "late in training", "loss < 0.05"),
    *("gradient norm > 1", "label 0 present", "float32", "features divisible by 64"),
)
# These need a call that no training step makes.
_CALLS = (
    *("input needs gradient", "frozen parameter", "input of one row", "more than 128 columns", "more than 3 axes"),
    *("upstream varies", "upstream varies by example", "upstream rows not divisible by 16", "upstream < 1e-6"),
    *("earlier gradients used again", "upstream used again", "saved tensors used again", "transposed upstream"),
    *("expanded upstream", "after torch.cat", "upstream inside a larger tensor", "upstream = 0", "double backward"),
    *("autocast", "empty batch"),
)
CONDITIONS: dict[str, Condition] = {
    **dict.fromkeys(_ORDINARY, Condition()),
    "layers of one shape": Condition(NetworkSpec(sizes=(64, 96, 96, 96, 10))),
    "classes > 32": Condition(NetworkSpec(sizes=(64, 128, 40))),
    "no bias": Condition(NetworkSpec(bias=False)),
    "label smoothing": Condition(NetworkSpec(label_smoothing=0.1)),
    "logit penalty": Condition(NetworkSpec(logit_penalty=0.01)),
    **{f"activation {name}": Condition(NetworkSpec(activation=name)) for name in ACTIVATIONS if name != "relu"},
    "float64": Condition(dtype=torch.float64),
    **dict.fromkeys(_CALLS, Condition(training=False)),
}
"""By name."""


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


def _network(batch: int, *, hidden: int = 5, frozen: Sequence[int] = ()) -> tuple[Tensor, ...]:
    return _inputs((batch, 6), (hidden, 6), (hidden,), (4, hidden), (4,), frozen=frozen)


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
