"""Checksums of tensors that rest in memory, by which a change is found that nobody made: a bit that flipped.

The 64-bit words of a tensor are summed modulo 2⁶⁴, in blocks. A change within one word always changes its block's sum;
changes of several words of a block do, unless they add up to 0: as two flips of the same bit, in opposite directions.
"""

import torch
from torch import Tensor

_BLOCKS = range(192, 512)  # words: as many as are added up at full speed
_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


class Checksum:
    """Sums of the words of one contiguous tensor, which keeps its memory, as :meth:`note` last found them."""

    def __init__(self, tensor: Tensor) -> None:
        assert tensor.is_contiguous()
        octets = tensor.detach().view(-1).view(torch.uint8)
        words = octets[: len(octets) // 8 * 8].view(torch.int64)
        self._rest = octets[8 * len(words) :]  # less than a word: it is copied
        # One table of overlapping blocks, so that one operation sums all, with as little overlap as there can be.
        step = min(_BLOCKS, key=lambda size: len(words) % size)
        count = max(1, len(words) // step)
        self._step, self._size = step, tensor.element_size()
        self._blocks = words.as_strided((count, len(words) - (count - 1) * step), (step, 1))
        # Sums as they were noted, in memory that stays, and as they are.
        self.then, self._now = (words.new_zeros(count + bool(len(self._rest))) for _ in range(2))
        self.note()

    def note(self) -> None:
        """Take the present content as what is to stand there."""
        self._sum(self.then)

    def holds(self) -> bool:
        """True if the content is what it was when it was noted."""
        self._sum(self._now)
        return torch.equal(self._now, self.then)

    def differs(self) -> Tensor:
        """True on the tensor's device if the content is not what it was, without waiting for it."""
        self._sum(self._now)
        return (self._now != self.then).any()

    def changed(self) -> tuple[int, int]:
        """First and last of the numbers among which some changed, where :meth:`holds` has said so."""
        blocks = (self._now != self.then).nonzero().flatten().tolist()
        count, length = self._blocks.shape
        end = self._step * (count - 1) + length
        first = self._step * blocks[0] if blocks[0] < count else end
        last = self._step * blocks[-1] + length if blocks[-1] < count else end + 1
        return 8 * first // self._size, (min(8 * last, 8 * end + len(self._rest)) - 1) // self._size

    def _sum(self, sums: Tensor) -> None:
        if len(self._rest):
            torch.sum(self._blocks, 1, out=sums[:-1])
            sums[-1:].view(torch.uint8)[: len(self._rest)] = self._rest
        else:
            torch.sum(self._blocks, 1, out=sums)


def rows_as_words(tensor: Tensor) -> Tensor:
    """Memory of a contiguous tensor (m, …) as integers (m, w), of 64 bits where rows are of whole words."""
    rows = tensor.data.flatten(1)  # of .data, so that a view does not keep ``tensor`` itself alive
    octets = rows.shape[1] * rows.element_size()
    return rows.view(_INTEGERS[min(octets & -octets, 8)])


def row_sums(tensor: Tensor) -> Tensor:
    """Sum of each row's words, modulo 2⁶⁴: int64 (m,), of a contiguous tensor (m, …)."""
    return rows_as_words(tensor).sum(1, dtype=torch.int64)
