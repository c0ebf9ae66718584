"""Static memory for batches: a few buffers that are written in turn, so that captured steps find their inputs there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor

from lean_mnist.nn.step import RING_DEPTH, Batch

_EXAMPLES = 256  # of a chunk on a processor: few, so that they stay in its cache from their normalisation to their step
_BATCHES_ON_GPU = 8  # of a chunk on a GPU: as many as are worth a graph of their steps


class BatchRing:
    """``RING_DEPTH + 1`` slots of memory for chunks, in turn: a chunk holds while ``RING_DEPTH`` more are taken."""

    def __init__(self, *, on_gpu: bool = False) -> None:
        self._on_gpu = on_gpu
        self._slots = itertools.cycle([_Slot() for _ in range(RING_DEPTH + 1)])
        self._addresses: set[int] = set()

    def batches_at_once(self, batch_size: int) -> int:
        """Batches of ``batch_size`` examples in a chunk."""
        return _BATCHES_ON_GPU if self._on_gpu else max(1, _EXAMPLES // batch_size)

    def take(self, sizes: Sequence[int], new: Callable[[int], Batch]) -> tuple[Tensor, Tensor, list[Batch]]:
        """See :class:`lean_mnist.data.batches.BatchMemory`."""
        x, y, batches = next(self._slots).views(tuple(sizes), new)
        self._addresses.update(features.data_ptr() for features, _ in batches)
        return x, y, batches

    def holds(self, batch: Batch) -> bool:
        """Whether ``batch`` lies in a slot."""
        return batch[0].data_ptr() in self._addresses


class _Slot:
    """Memory for one chunk at a time. The same sizes get the same tensors: a view costs as much as a small kernel."""

    def __init__(self) -> None:
        self._memory: Batch | None = None
        self._views: dict[tuple[int, ...], tuple[Tensor, Tensor, list[Batch]]] = {}

    def views(self, sizes: tuple[int, ...], new: Callable[[int], Batch]) -> tuple[Tensor, Tensor, list[Batch]]:
        if sizes not in self._views:
            if self._memory is None or len(self._memory[1]) < sum(sizes):
                self._memory, self._views = new(sum(sizes)), {}
            x, y = (tensor[: sum(sizes)] for tensor in self._memory)
            self._views[sizes] = x, y, list(zip(x.split(sizes), y.split(sizes), strict=True))
        return self._views[sizes]
