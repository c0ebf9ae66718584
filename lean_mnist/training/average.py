"""Average of a network's weights over its epochs, which is evaluated in place of the weights that are trained."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lean_mnist.errors import CheckpointError, MemoryFault
from lean_mnist.memory import Checksum
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.nn.saved import restore_weights


class WeightAverage:
    """Weighted mean of a network's weights at the ends of its epochs, each with ``decay`` times the weight of the next.

    With ``watched`` it carries a checksum from one use to the next; whatever finds it changed raises ``MemoryFault``.
    B. Polyak, A. Juditsky, SIAM Journal on Control and Optimization 30 (1992); over epochs: P. Izmailov et al.,
    "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018.
    """

    def __init__(self, model: MLP, decay: float, *, watched: bool) -> None:
        self._network, self._decay, self._epochs = copy.deepcopy(model), decay, 0
        self._vector = FlatParameters(self._network).vector.data
        for parameter in self._network.parameters():
            parameter.grad = None
        self._checksum = Checksum(self._vector) if watched else None

    @property
    def network(self) -> MLP | None:
        """The network with the mean as its weights; ``None`` before the first epoch's end."""
        if self._checksum is not None and not self._checksum.holds():
            raise MemoryFault("the average of the weights was changed in memory; the last checkpoint has it as it was")
        return self._network if self._epochs else None

    def add(self, parameters: FlatParameters[Any]) -> None:
        """Take in the weights at the end of the next epoch."""
        _, epochs = self.network, self._epochs + 1
        self._vector.lerp_(parameters.vector.data, (1 - self._decay) / (1 - self._decay**epochs))
        self._written(epochs)

    def restore(self, weights: Mapping[str, Tensor] | None, epochs: int, where: str) -> None:
        """Take the mean of so many epochs; raises ``CheckpointError`` naming the file ``where`` it is from."""
        if weights is not None:
            about = f"the average of {self._network.architecture}"
            restore_weights(self._network, weights, about, where, CheckpointError)
        self._written(epochs)

    def _written(self, epochs: int) -> None:
        self._epochs = epochs
        if self._checksum is not None:
            self._checksum.note()
