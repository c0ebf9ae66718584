"""Checksums of tensors that rest in memory, by which a change is found that nobody made: a bit that flipped.

The 64-bit words of a tensor are summed modulo 2⁶⁴, in blocks. A change within one word always changes its block's sum;
changes of several words of a block do, unless they add up to 0: as two flips of the same bit, in opposite directions.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 256  # words: as many as are added up at full speed
_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


class Checksum:
    """Sums of the words of one contiguous tensor, as they were when :meth:`note` was last called.

    The tensor is to keep its memory.
    """

    def __init__(self, tensor: Tensor) -> None:
        assert tensor.is_contiguous()
        octets = tensor.detach().view(-1).view(torch.uint8)
        count = len(octets) // (8 * _BLOCK)
        self._size = tensor.element_size()
        self._blocks = octets[: count * 8 * _BLOCK].view(torch.int64).view(count, _BLOCK)
        self._rest = octets[count * 8 * _BLOCK :]  # too few for a block: these are copied
        # Sums and what is copied lie in one tensor, so that they are compared at once.
        self._then, self._now = (self._blocks.new_zeros(count + -(-len(self._rest) // 8)) for _ in range(2))
        self._parts = [
            (sums[:count], sums[count:].view(torch.uint8)[: len(self._rest)]) for sums in (self._then, self._now)
        ]
        self.note()

    def note(self) -> None:
        """Take the present content as what is to stand there."""
        self._sum(*self._parts[0])

    def holds(self) -> bool:
        """Whether the content is what it was when it was noted."""
        self._sum(*self._parts[1])
        return torch.equal(self._now, self._then)

    def changed(self) -> tuple[int, int]:
        """First and last of the numbers among which some changed, where :meth:`holds` has said so."""
        (sums, rest), (now, rest_now) = self._parts
        count = len(sums)
        blocks, octets = ((a != b).nonzero().flatten().tolist() for a, b in ((sums, now), (rest, rest_now)))
        places = [number * 8 * _BLOCK for block in blocks for number in (block, block + 1)]
        places += [count * 8 * _BLOCK + number for octet in octets for number in (octet, octet + 1)]
        return min(places) // self._size, (max(places) - 1) // self._size

    def _sum(self, sums: Tensor, rest: Tensor) -> None:
        torch.sum(self._blocks, 1, out=sums)
        rest.copy_(self._rest)


def row_sums(tensor: Tensor) -> Tensor:
    """Sum of each row's words, modulo 2⁶⁴: int64 (m,), of a contiguous tensor (m, …)."""
    octets = tensor.detach().flatten(1).view(torch.uint8)
    width = next(width for width in _INTEGERS if octets.shape[1] % width == 0)
    return octets.view(_INTEGERS[width]).sum(1, dtype=torch.int64)
