"""Random probe vectors for product checks, a deterministic function of the seed and the step's number.

Entries have random signs and magnitudes uniform in [1/2, 3/2], so their density is at most 1/2. Then ``⟨e, v⟩`` has a
density of at most ``1 / (√2 ‖e‖)`` (Rogozin, 1987; Ball, 1986): an error ``e`` hides below a threshold ``t`` with
probability at most ``√2 t / ‖e‖``, and one in a single element never does while ``t < |e| / 2``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# So many steps' probes are drawn at a time.
BLOCK = 64


class Probe(NamedTuple):
    """The two vectors for one layer with a weight of shape (H, D)."""

    v: Tensor  # (H,)
    u: Tensor  # (D,)


class Probes:
    """Probes for layers with weights of these ``shapes``; a pure function of ``seed`` and the step's number.

    Those of a step are one vector: ``u`` and then ``√D`` for each layer, then ``v`` for each. A bias is the weight of a
    feature that is always 1; with ``√D``, it counts as much as the others together.
    """

    def __init__(self, seed: int, shapes: Sequence[tuple[int, int]], like: Tensor) -> None:
        self._seed = seed
        self._sizes = [*(features + 1 for _, features in shapes), *(units for units, _ in shapes)]
        self._features = [features for _, features in shapes]
        self._device, self._dtype = like.device, like.dtype
        self._block = -1
        self._rows: tuple[Tensor, ...] = ()

    def fit(self, like: Tensor) -> bool:
        """True if the probes have this tensor's device and dtype."""
        return self._device == like.device and self._dtype == like.dtype

    def seed_of(self, step: int) -> int:
        """The seed that the probes of this step are drawn from, with those of the other steps of its block."""
        return (self._seed * 1_000_003 + step // BLOCK) % 2**63

    def vector(self, step: int) -> Tensor:
        """The probes of a step, ``(Σ (D + 1 + H),)``."""
        block, row = divmod(step, BLOCK)
        if block != self._block:
            generator = torch.Generator().manual_seed(self.seed_of(step))
            # In [−1, 1), then away from 0 by a half.
            drawn = torch.rand(BLOCK, sum(self._sizes), generator=generator).mul_(2).sub_(1)
            drawn += torch.copysign(torch.tensor(0.5), drawn)
            for features, end in zip(self._features, itertools.accumulate(self._sizes), strict=False):
                drawn[:, end - 1] = math.sqrt(features)
            self._block, self._rows = block, drawn.to(self._device, self._dtype).unbind()
        return self._rows[row]

    def of(self, step: int) -> list[Probe]:
        """The probes of a step, layer by layer."""
        parts = self.vector(step).split(self._sizes)
        count = len(self._features)
        return [Probe(v, u[:-1]) for u, v in zip(parts[:count], parts[count:], strict=True)]
