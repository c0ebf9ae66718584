"""The message in which every rank tells the others about a step, and the verdict that follows from all of them.

The functions here are pure, and every rank calls them with the same messages, so all ranks come to the same verdict. A
sum of gradients is held against its summands by *digests*, a few random projections of each.

A digest is ``⟨w, g⟩`` in float64, with entries of ``w`` as in ``audit.randomised``: random signs, magnitudes
uniform in [1/2, 3/2]. It is linear, so that of a sum is the sum of those of the summands, up to rounding:

- The reduction computes ``fl(Σ_r fl(c_r g_r))`` elementwise, in any order. Each summand passes at most N roundings
  (one product, N − 1 sums), so the error ``e`` has ``|e_i| ≤ γ_N Σ_r c_r |g_ri|`` with ``γ_N ≈ N u`` (Higham, 2002,
  section 3.1), hence ``‖e‖ ≤ γ_N S`` with ``S = Σ_r c_r ‖g_r‖``. ``w`` is drawn independently of ``e``, its entries
  have mean 0 and size at most 3/2, so ``|⟨w, e⟩| ≤ 3/2 λ ‖e‖`` but with probability ``2 exp(−λ²/2)`` (Hoeffding, 1963),
  for λ = 8 below 3e-14 a step.
- A digest of P terms is itself off by at most ``λ √P u₆₄ Σ_i |w_i g_i| ≤ 3/2 λ P u₆₄ ‖g‖`` (Higham and Mary, 2019), and
  two sides are compared, each of a norm of at most about S.

So a sum is refused if a digest is off by more than ``3/2 λ S (N u + 2 P u₆₄)``, plus what underflow may hide. An error
in one element, larger than four times that, cannot hide; any other error ``e`` hides from one projection with
probability at most ``2√2 · tolerance / ‖e‖``, and from both with about the square of that.
"""

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.audit.rounding import LAMBDA
from lean_mnist.data.splits import generator_for

PROJECTIONS = 2
# A step's projections are windows into longer rows of random numbers: to draw them anew would cost more than all else.
_WINDOW = 4093
_SPREAD = 1511  # from one step's window to the next
# Converted to float64 at a time: what fits into a cache beside its projections.
_CHUNK = 2**16


class Digests:
    """The projections of gradients of ``size`` numbers; a pure function of ``seed``, ``size`` and a step's number."""

    def __init__(self, seed: int, size: int, device: torch.device) -> None:
        generator = generator_for(seed, "digest")
        drawn = torch.rand(PROJECTIONS, size + _WINDOW, generator=generator, dtype=torch.float64).mul_(2).sub_(1)
        drawn += torch.copysign(torch.tensor(0.5, dtype=torch.float64), drawn)
        self._rows, self._size = drawn.to(device), size
        self._exact = torch.empty(
            min(size, _CHUNK) if device.type == "cpu" else size, dtype=torch.float64, device=device
        )

    def of(self, gradient_P: Tensor, step: int) -> Tensor:
        """The digests of a gradient and its 2-norm: float64, (PROJECTIONS + 1,), on its device."""
        offset = step * _SPREAD % _WINDOW
        result = torch.zeros(PROJECTIONS + 1, dtype=torch.float64, device=gradient_P.device)
        projections, norm = result[:PROJECTIONS], result[PROJECTIONS]
        for start in range(0, self._size, len(self._exact)):
            given = gradient_P[start : start + len(self._exact)]
            part = self._exact[: len(given)].copy_(given)
            projections.addmv_(self._rows[:, offset + start : offset + start + len(part)], part)
            norm += torch.dot(part, part)
        norm.sqrt_()
        return result


def tolerance(size: int, dtype: torch.dtype, ranks: int, norms: float) -> float:
    """Largest distance of a digest of a reduced gradient of ``size`` numbers from the sum of the digests.

    ``norms`` is ``Σ_r c_r ‖g_r‖``, the weighted sum of the ranks' norms.
    """
    unit, finest, tiny = torch.finfo(dtype).eps / 2, torch.finfo(torch.float64).eps / 2, torch.finfo(dtype).tiny
    underflow = math.sqrt(size) * ranks * tiny  # ‖e‖ of a reduction that flushes to zero
    return 1.5 * LAMBDA * (norms * (ranks * unit + 2 * size * finest) + underflow)


def words_of(vector_P: Tensor) -> Tensor:
    """The bits of ``vector_P`` as integers, as wide as its length allows; NaN equals itself there, and 0 is not −0."""
    if vector_P.element_size() * len(vector_P) % 8 == 0:
        return vector_P.view(torch.int64)
    return vector_P.view(torch.int32)


def bits_of(vector_P: Tensor) -> Tensor:
    """An int64 that differs where a single number of ``vector_P`` does; the same in whatever order it is summed."""
    return words_of(vector_P).sum(dtype=torch.int64)


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
    """The reason why the ranks' parts are not those of one batch; empty if they are."""
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
