"""Verification of each training step's identities by random projections, for the cost of matrix–vector products.

Products are verified as Freivalds proposed (1977): to see that ``dW = dzᵀ h``, both sides are multiplied by a random
vector. Entries of these probes have random signs and magnitudes uniform in [1/2, 3/2], so their density is at most 1/2.
Then ``⟨e, v⟩`` has a density of at most ``1 / (√2 ‖e‖)`` (Rogozin, 1987; Ball, 1986): an error ``e`` hides below a
threshold ``t`` with probability at most ``√2 t / ‖e‖``, whatever its pattern, and one in a single element never does
while ``t < |e| / 2``.

Every step is given the batched check (:mod:`.batched`). Where something might be wrong, and at the first and every
``PER_ROW_EVERY``-th step anyway, the list is run per row, each row against its own threshold. What stood out in the
batched check and is not explained by these thresholds, which are wide enough for any probe, is computed again exactly,
in float64, and that decides.
"""

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lean_mnist.audit.batched import BatchChecks, BatchedCheck
from lean_mnist.audit.local_checks import ComputedStep, LocalCheck, Probe, local_checks
from lean_mnist.audit.native_screen import NativeScreen
from lean_mnist.crosscheck.comparison import or_infinity

# So many steps' probes are drawn at a time.
BLOCK = 64


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
        self._rows = like.new_empty(0, sum(self._sizes))

    def fit(self, like: Tensor) -> bool:
        """True if the probes have this tensor's device and dtype."""
        return self._device == like.device and self._dtype == like.dtype

    def seed_of(self, step: int) -> int:
        """The seed that the probes of this step are drawn from, with those of the other steps of its block."""
        return (self._seed * 1_000_003 + step // BLOCK) % 2**63

    def vector(self, step: int) -> Tensor:
        """The probes of a step, ``(Σ (D + 1 + H),)``."""
        return self.rows(step)[0]

    def rows(self, step: int) -> Tensor:
        """The probes of a step and those of its block that follow."""
        block, row = divmod(step, BLOCK)
        if block != self._block:
            generator = np.random.default_rng(self.seed_of(step))  # three times as fast as PyTorch's
            drawn = generator.random((BLOCK, sum(self._sizes)), dtype=np.float32)
            drawn -= 0.5  # in [−1/2, 1/2); twice that, then away from 0 by a half
            drawn *= 2
            drawn += np.copysign(np.float32(0.5), drawn)
            for features, end in zip(self._features, itertools.accumulate(self._sizes), strict=False):
                drawn[:, end - 1] = math.sqrt(features)
            self._block, self._rows = block, torch.from_numpy(drawn).to(self._device, self._dtype)
        return self._rows[row:]

    def of(self, step: int) -> list[Probe]:
        """The probes of a step, layer by layer."""
        parts = self.vector(step).split(self._sizes)
        count = len(self._features)
        return [Probe(v, u[:-1]) for u, v in zip(parts[:count], parts[count:], strict=True)]


PER_ROW_EVERY = 500
_SHOWN = 5


@dataclass(frozen=True)
class LocalFailure:
    """A local check that does not hold: of which tensor, in which rows, and by how much of what rounding explains."""

    identity: str
    tensor: str
    rows: tuple[int, ...]  # of the tensor, the first few; none where the exact check found it
    share: float  # residual / threshold at the worst place

    def __str__(self) -> str:
        more = ", …" if len(self.rows) == _SHOWN else ""
        rows = f" (rows {', '.join(map(str, self.rows))}{more})" if self.rows else ""
        return f"{self.tensor}: {self.identity} does not hold{rows}: {self.share:.3g} times what rounding explains"


@dataclass(frozen=True)
class RandomisedResult:
    """Outcome of the randomised check of one step."""

    failures: tuple[LocalFailure, ...]
    share: float  # the largest residual as a share of its threshold
    per_row: bool  # whether the list was run per row
    stood_out: bool  # whether the batched check was the reason
    seed: int
    seconds: float

    @property
    def passed(self) -> bool:
        """True if every local check holds."""
        return not self.failures


class RandomisedCheck:
    """Checks the steps of one network; probes come from ``seed`` and the step's number, so a step can be repeated."""

    def __init__(self, seed: int = 0, per_row_every: int = PER_ROW_EVERY) -> None:
        self._seed, self._every = seed, per_row_every
        self._probes: Probes | None = None
        self._batched: dict[int, BatchedCheck] = {}  # by the number of examples
        self._native: NativeScreen | None = None

    def stand_in(self, native: NativeScreen) -> None:
        """Let this check stand in for the batched one, of the steps that are in its engine's tape."""
        self._native, self._probes = native, Probes(self._seed, native.shapes, torch.zeros(0))

    def per_row(self, number: int) -> bool:
        """True if the list is to be run per row at this step anyway."""
        return (number - 1) % self._every == 0

    def begin(self, number: int, steps: int) -> int:
        """Hand the native check the probes of steps from ``number`` on; returns of how many, up to ``steps``."""
        assert self._native is not None
        rows = self.probes.rows(number)
        self._native.use(rows)
        return min(steps, len(rows))

    @torch.no_grad()
    def check(self, number: int, step: ComputedStep) -> RandomisedResult:
        """Check step ``number`` (from 1), whose ``loss`` is given."""
        started = time.perf_counter()
        probes = self.probes_for(step)
        seed, share = probes.seed_of(number), self._batched_share(number, step)
        stood_out = share is not None and not share <= 1  # also NaN
        if share is not None and not stood_out and not self.per_row(number):
            return RandomisedResult((), share, False, False, seed, time.perf_counter() - started)
        checks = list(local_checks(step))
        failures, largest = _run_per_row(checks, probes.of(number))
        if stood_out and not failures:
            exact = [(check, check.residual().share) for check in checks]
            failures = [LocalFailure(c.identity.value, c.tensor, (), of) for c, of in exact if not of <= 1]
            largest = max([largest, *(failure.share for failure in failures)])
        return RandomisedResult(tuple(failures), largest, True, stood_out, seed, time.perf_counter() - started)

    def _batched_share(self, number: int, step: ComputedStep) -> float | None:
        """The share that the batched check shows; ``None`` where the step cannot be checked so."""
        if self._native is not None and len(step.tapes) == 1 and step.loss is not None:
            self.begin(number, 1)
            if (share := self._native.share(step.tapes[0], float(step.loss))) is not None:
                return share
        batched = self.run_batched(step, self.probes.vector(number))
        return None if batched is None else batched.share(float(step.loss))  # type: ignore[arg-type]

    def probes_for(self, step: ComputedStep) -> Probes:
        """Probes for networks with the layers of ``step``."""
        weight = step.layers[0][0]
        if self._probes is None or not self._probes.fit(weight):
            self._probes = Probes(self._seed, [(w.shape[0], w.shape[1]) for w, _ in step.layers], weight)
            self._batched = {}
        return self._probes

    @property
    def probes(self) -> Probes:
        """Those of the network that was checked last."""
        assert self._probes is not None
        return self._probes

    def run_batched(self, step: ComputedStep, probes: Tensor) -> BatchedCheck | None:
        """The batched check of a step, run, its numbers not looked at; ``None`` where it cannot be checked so."""
        checks = BatchChecks.of(step)
        if checks is None:
            return None
        examples = len(step.tapes[0].labels_B)
        batched = self._batched.get(examples)
        if batched is None:
            batched = self._batched[examples] = BatchedCheck(checks)
        batched.probes.copy_(probes)
        batched.run(checks)
        return batched


def _run_per_row(checks: Sequence[LocalCheck], probes: Sequence[Probe]) -> tuple[list[LocalFailure], float]:
    """Failures in the order of the list, and the largest share, NaN counting as the largest of all."""
    found = [(check, check.row_shares(probes)) for check in checks]
    # One transfer for all checks: the largest share of each.
    worst = torch.stack([rows.amax().double() if rows.numel() else rows.new_zeros(()).double() for _, rows in found])
    failures = [
        LocalFailure(check.identity.value, check.tensor, _bad_rows(rows), largest)
        for (check, rows), largest in zip(found, worst.tolist(), strict=True)
        if not largest <= 1  # also NaN
    ]
    return failures, max(worst.tolist(), key=or_infinity)


def _bad_rows(shares: Tensor) -> tuple[int, ...]:
    return tuple(int(row) for row in (~(shares <= 1)).nonzero().flatten()[:_SHOWN])
