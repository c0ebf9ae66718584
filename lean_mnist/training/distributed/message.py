"""Messages in which every rank tells the others about a step, and the verdict that follows from all of them.

The functions here are pure, and every rank calls them with the same messages, so all ranks come to the same verdict. A
sum of gradients is held against its summands by *digests*: a few random projections of each chunk of ``CHUNK`` numbers.

A digest is ``⟨w, g⟩`` in float64, with entries of ``w`` as in ``audit.randomised``: random signs, magnitudes
uniform in [1/2, 3/2]. It is linear, so that of a sum is the sum of those of the summands, up to rounding. For a chunk:

- The reduction computes ``fl(Σ_r fl(c_r g_r))`` elementwise, in any order. Each summand passes at most N roundings
  (one product, N − 1 sums), so the error ``e`` has ``|e_i| ≤ γ_N Σ_r c_r |g_ri|`` with ``γ_N ≈ N u`` (Higham, 2002,
  section 3.1), hence ``‖e‖ ≤ γ_N S`` with ``S = Σ_r c_r ‖g_r‖``. ``w`` is drawn independently of ``e``, its entries
  have mean 0 and size at most 3/2, so ``|⟨w, e⟩| ≤ 3/2 λ ‖e‖`` but with probability ``2 exp(−λ²/2)`` (Hoeffding, 1963),
  for λ = 8 below 3e-14.
- A digest of n terms is itself off by at most ``λ √n u₆₄ Σ_i |w_i g_i| ≤ 3/2 λ n u₆₄ ‖g‖`` (Higham and Mary, 2019), and
  two sides are compared, each of a norm of at most about S.

So a sum is refused if a digest is off by more than ``3/2 λ S (N u + 2 n u₆₄)``, plus what underflow may hide. An error
in one element, larger than four times that, cannot hide; any other error ``e`` of a chunk hides from one projection
with probability at most ``2√2 · tolerance / ‖e‖``, and from both with about the square of that. Chunks have the same
``w``, which stays in a processor's cache, and tolerances of their own.
"""

import ctypes
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.audit.rounding import LAMBDA
from lean_mnist.data.splits import generator_for
from lean_mnist.nn.engine.library import CannotCompile, load_library
from lean_mnist.nn.engine.structures import address

PROJECTIONS = 2
CHUNK = 2**16  # numbers; what fits into a cache in float64, beside its projections
# A step's projections are windows into longer rows of random numbers: to draw them anew would cost more than all else.
_WINDOW = 4093
_HEAD = 6  # numbers of a message before its digests
_SPREAD = 1511  # from one step's window to the next


def _digest_in_c() -> Callable[..., None] | None:
    """The function of ``digest.c``; ``None`` where no compiler is."""
    try:
        function: Callable[..., None] = load_library(Path(__file__).with_name("digest.c")).digest
    except CannotCompile:
        return None
    function.argtypes, function.restype = [*[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 6], None  # type: ignore[attr-defined]
    return function


class Digests:
    """The projections of gradients of ``size`` numbers; a pure function of ``seed``, ``size`` and a step's number.

    With ``native`` those in float32 are computed in C, where there is a compiler, which reads a gradient once.
    """

    def __init__(self, seed: int, size: int, device: torch.device, *, native: bool = True) -> None:
        generator, length = generator_for(seed, "digest"), min(size, CHUNK)
        drawn = torch.rand(PROJECTIONS, length + _WINDOW, generator=generator, dtype=torch.float64).mul_(2).sub_(1)
        drawn += torch.copysign(torch.tensor(0.5, dtype=torch.float64), drawn)
        self._rows, self._exact = drawn.to(device), torch.empty(length, dtype=torch.float64, device=device)
        self.chunks, self.in_c = -(-size // CHUNK), _digest_in_c() if native and device.type == "cpu" else None

    @property
    def message_size(self) -> int:
        """Numbers of a packed :class:`Message` with digests of this size."""
        return _HEAD + self.chunks * (PROJECTIONS + 2)

    def of(self, gradient_P: Tensor, step: int, copy_P: Tensor | None = None) -> Tensor:
        """The digests of a gradient's chunks, on the CPU: float64, (chunks, PROJECTIONS + 2).

        Behind the projections come the 2-norm and, as an int64, the sum of the numbers' bits, which differs where a
        single one does. ``copy_P`` becomes a copy of the gradient on the way.
        """
        if self.in_c is not None and gradient_P.dtype == torch.float32:
            return self._computed_in_c([gradient_P], None, copy_P, step)
        rows, result = self._projections(step), gradient_P.new_zeros(self.chunks, PROJECTIONS + 2, dtype=torch.float64)
        bits = bits_of(result)
        for chunk, given in enumerate(gradient_P.split(CHUNK)):
            part = self._exact[: len(given)].copy_(given)
            torch.mv(rows[:, : len(part)], part, out=result[chunk, :PROJECTIONS])
            result[chunk, PROJECTIONS] = torch.dot(part, part)
            bits[chunk] = words_of(given).sum(dtype=torch.int64)
        if copy_P is not None:
            copy_P.copy_(gradient_P)
        result[:, PROJECTIONS].sqrt_()
        return result.cpu()

    def of_sum(self, summands: Sequence[tuple[Tensor, float]], sum_P: Tensor, step: int) -> Tensor:
        """Put the sum of these vectors, each times its weight, into ``sum_P``; the digests of the sum."""
        if self.in_c is not None and sum_P.dtype == torch.float32 and summands:
            vectors, weights = [vector_P for vector_P, _ in summands], [weight for _, weight in summands]
            return self._computed_in_c(vectors, weights, sum_P, step)
        sum_P.zero_()
        for vector_P, weight in summands:
            sum_P.add_(vector_P, alpha=weight)
        return self.of(sum_P, step)

    def _computed_in_c(
        self, vectors: Sequence[Tensor], weights: Sequence[float] | None, out_P: Tensor | None, step: int
    ) -> Tensor:
        assert self.in_c is not None
        count, result = len(vectors), torch.zeros(self.chunks, PROJECTIONS + 2, dtype=torch.float64)
        places = (ctypes.c_void_p * count)(*map(address, vectors))
        factors = None if weights is None else (ctypes.c_float * count)(*weights)
        self.in_c(
            len(vectors[0]), CHUNK, count, places, factors, *map(address, (out_P, *self._projections(step), result))
        )
        result[:, PROJECTIONS].sqrt_()
        return result

    def _projections(self, step: int) -> Tensor:
        offset = step * _SPREAD % _WINDOW
        return self._rows[:, offset : offset + len(self._exact)]

    def match(self, digests: Tensor, messages: Sequence["Message"], ranks: int, dtype: torch.dtype) -> list[bool]:
        """Of each of these: True if they are of the gradients' weighted sum, as ``ranks`` compute it in ``dtype``."""
        # One rank after the other: the same roundings, and so the same verdict, on all.
        summands = [m.weight * m.digests[:, : PROJECTIONS + 1] for m in messages if m.examples]
        expected = sum(summands, torch.zeros(self.chunks, PROJECTIONS + 1, dtype=torch.float64))
        allowed = tolerance(len(self._exact), dtype, ranks, expected[:, PROJECTIONS:])
        off = (digests[..., :PROJECTIONS] - expected[:, :PROJECTIONS]).abs()
        return [bool(right) for right in (off <= allowed).flatten(1).all(1)]  # which NaN is not


def tolerance(size: int, dtype: torch.dtype, ranks: int, norms: Tensor) -> Tensor:
    """Largest distance of a digest of ``size`` numbers of a reduced gradient from the sum of the digests.

    ``norms`` is ``Σ_r c_r ‖g_r‖``, the weighted sum of the ranks' norms, of any number of chunks.
    """
    unit, finest, tiny = torch.finfo(dtype).eps / 2, torch.finfo(torch.float64).eps / 2, torch.finfo(dtype).tiny
    underflow = math.sqrt(size) * ranks * tiny  # ‖e‖ of a reduction that flushes to zero
    return 1.5 * LAMBDA * (norms * (ranks * unit + 2 * size * finest) + underflow)


def words_of(vector_P: Tensor) -> Tensor:
    """The bits of ``vector_P`` as integers, as wide as its length allows; NaN equals itself there, and 0 is not −0."""
    if vector_P.element_size() * len(vector_P) % 8 == 0:
        return vector_P.view(torch.int64)
    return vector_P.view(torch.int32)


def bits_of(digests: Tensor) -> Tensor:
    """The sums of bits in digests, a view: int64, (..., chunks)."""
    return digests.view(torch.int64)[..., PROJECTIONS + 1]


class Message(NamedTuple):
    """One rank's account of its part of a step, before the reduction."""

    step: int
    examples: int  # in its part
    total: int  # in the global batch
    refused: bool  # its checks refuse the step
    stop: bool  # it was asked to stop
    loss: float
    digests: Tensor  # of its gradient

    @property
    def weight(self) -> float:
        """This rank's share of the global batch."""
        return self.examples / self.total

    def packed(self) -> Tensor:
        """The row that is sent: float64, on the CPU."""
        return torch.cat([torch.tensor(self[:-1], dtype=torch.float64), self.digests.flatten()])

    @staticmethod
    def unpacked(row_F: Tensor) -> "Message":
        """The message of a row."""
        *integers, loss = row_F[:_HEAD].tolist()
        step, examples, total, refused, stop = map(int, integers)
        return Message(step, examples, total, bool(refused), bool(stop), loss, row_F[_HEAD:].view(-1, PROJECTIONS + 2))


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


def odd_ones(values: Sequence[object]) -> list[int]:
    """The ranks whose value is not that of most; of equally many, not that of rank 0."""
    usual = max(values, key=values.count)
    return [rank for rank, own in enumerate(values) if own != usual]
