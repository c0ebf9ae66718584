"""Conditions under which a fault shows, each with the network whose training brings it about in the self-test."""

from dataclasses import dataclass

import torch

from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.nn import MLP


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
