"""Conditions under which a fault shows, each with the network whose training brings it about in the self-test."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        return MLP(
            self.sizes,
            self.activation,
            bias=self.bias,
            seed=seed,
            dtype=dtype,
            label_smoothing=self.label_smoothing,
            logit_penalty=self.logit_penalty,
        )


@dataclass(frozen=True)
class Condition:
    """Condition for a fault to show: ``network`` is trained in the self-test, if ``training`` can show it."""

    name: str
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
_DEEP = NetworkSpec()

CONDITIONS: dict[str, Condition] = {
    condition.name: condition
    for condition in (
        *(Condition(name) for name in _ORDINARY),
        Condition("layers of one shape", NetworkSpec(sizes=(64, 96, 96, 96, 10))),
        Condition("classes > 32", NetworkSpec(sizes=(64, 128, 40))),
        Condition("no bias", replace(_DEEP, bias=False)),
        Condition("label smoothing", replace(_DEEP, label_smoothing=0.1)),
        Condition("logit penalty", replace(_DEEP, logit_penalty=0.01)),
        *(Condition(f"activation {name}", replace(_DEEP, activation=name)) for name in ACTIVATIONS if name != "relu"),
        Condition("float64", dtype=torch.float64),
        *(Condition(name, training=False) for name in _CALLS),
    )
}
"""By name."""
