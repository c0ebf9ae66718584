"""Checksums of examples that rest in memory, and of the batches made of them until they are used."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lean_mnist.memory import row_sums, rows_as_words

_NOTED = "lean_mnist_made"  # attribute of the tensor of a batch's features, so that it goes when the batch does
NOT_ITS_IMAGES = "the features of the batch are not those of its images: they were changed in memory"
LABEL_FACTOR = 0x9E3779B97F4A7C1  # spreads the bits of a label over a word


class RestingExamples:
    """Checksums of images, uint8 (m, rows, columns), and labels (m,), that are to stay as they are now."""

    def __init__(self, images: Tensor, labels: Tensor, where: str) -> None:  # ``where`` they are numbered, in messages
        self.sums, self._labels, self._where = _sums_of(images, labels), labels.clone(), where

    def difference(self, rows: Tensor, images: Tensor, labels: Tensor) -> str:
        """The first change in ``images`` and ``labels``, read at ``rows`` (B,), in words; empty if there is none."""
        sums, expected = _sums_of(images, labels), self.sums.index_select(0, rows)
        if torch.equal(sums, expected):
            return ""
        place = int((sums != expected).nonzero()[0])
        example = f"of example {int(rows[place])} {self._where} was changed in memory"
        before, after = int(self._labels[rows[place]]), int(labels[place])
        return f"the image {example}" if before == after else f"the label {example}: {before} became {after}"


def _sums_of(images: Tensor, labels: Tensor) -> Tensor:
    return torch.add(row_sums(images), labels, alpha=LABEL_FACTOR)


class _Made:
    """A batch as it was made in the memory of ``x``: sums of its features, its labels, and what makes ``x`` again."""

    sums: Tensor
    labels: Tensor
    again: Callable[[], Tensor]

    def __init__(self, x: Tensor) -> None:
        self._words = rows_as_words(x)  # kept, as views cost as much as the sum of a small batch

    def now(self) -> Tensor:
        """Sums of the features as they stand there now."""
        return self._words.sum(1, dtype=torch.int64)


class BatchWatch:
    """Compares examples with their checksums when they are read, and batches with theirs when they are used."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.resting = RestingExamples(images, labels, "of the training part")
        self._found: list[str] = []

    def tell(self, found: str) -> None:
        """Remember what was found, if anything, until the next batch is used."""
        if found:
            self._found.append(found)

    def made(self, x: Tensor, labels: Tensor, again: Callable[[], Tensor]) -> None:
        """Note a batch that was made just now, with these labels; ``again`` makes its features once more."""
        noted: _Made | None = getattr(x, _NOTED, None)
        if noted is None:
            noted = _Made(x)
            setattr(x, _NOTED, noted)
        noted.sums, noted.labels, noted.again = noted.now(), labels, again

    def difference(self, batch: tuple[Tensor, Tensor], *, from_source: bool) -> str:
        """The changes told since the last batch and those of this one since it was made; empty if there are none.

        ``from_source``: its features are made from their images once more, too, and compared bit for bit.
        """
        found, self._found, (x, labels) = self._found, [], batch
        made: _Made | None = getattr(x, _NOTED, None)
        if made is None or made.labels.shape != labels.shape:
            return first_of([*found, "a batch stands where none was made"])
        if not torch.equal(labels, made.labels):
            place = int((labels != made.labels).nonzero()[0])
            old, new = int(made.labels[place]), int(labels[place])
            found.append(f"label {place} of the batch was changed in memory: {old} became {new}")
        sums = made.now()
        if not torch.equal(sums, made.sums):
            row = int((sums != made.sums).nonzero()[0])
            found.append(f"the features of example {row} of the batch were changed in memory")
        elif from_source and not same_bits(x, made.again()):
            found.append(NOT_ITS_IMAGES)
        return first_of(found)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """True if two contiguous tensors are equal bit for bit."""
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def first_of(found: Sequence[str]) -> str:
    """The first of these findings and how many more there are; empty if there are none."""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return found[0] + more if found else ""
