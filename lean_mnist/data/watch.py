"""Checksums of examples that rest in memory, and of the batches made of them until they are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from lean_mnist.memory import row_sums


class RestingExamples:
    """Checksums of images, uint8 (m, rows, columns), and copies of labels (m,), that are to stay as they are now.

    ``where`` says in messages what they are numbered by.
    """

    def __init__(self, images: Tensor, labels: Tensor, where: str) -> None:
        self._sums, self._labels, self._where = row_sums(images), labels.clone(), where

    def difference(self, rows: Tensor, images: Tensor, labels: Tensor) -> str:
        """What is not as it was in ``images`` and ``labels``, read at ``rows`` (B,); empty if everything is."""
        sums, expected_sums = row_sums(images), self._sums.index_select(0, rows)
        expected = self._labels.index_select(0, rows)
        if torch.equal(sums, expected_sums) and torch.equal(labels, expected):
            return ""
        found = [
            f"the label of example {int(rows[i])} {self._where} was changed in memory: {int(expected[i])} became "
            f"{int(labels[i])}"
            for i in (labels != expected).nonzero().flatten().tolist()
        ]
        for i in (sums != expected_sums).nonzero().flatten().tolist():
            found.append(f"the image of example {int(rows[i])} {self._where} was changed in memory")
        return first_of(found)


class _Made(NamedTuple):
    """A batch as it was made: sums of its features, its labels, and what makes the features once more."""

    sums: Tensor
    labels: Tensor
    again: Callable[[], Tensor]


class BatchWatch:
    """Compares examples with their checksums when they are read, and batches with theirs when they are used."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.resting = RestingExamples(images, labels, "of the training part")
        self._found: list[str] = []
        self._made = WeakIdKeyDictionary()  # by the tensor of features

    def tell(self, found: str) -> None:
        """Remember what was found, if anything, until the next batch is used."""
        if found:
            self._found.append(found)

    def made(self, x: Tensor, labels: Tensor, again: Callable[[], Tensor]) -> None:
        """Note a batch that was made just now, with these labels; ``again`` makes its features once more."""
        self._made[x] = _Made(row_sums(x), labels, again)

    def before_use(self, batch: tuple[Tensor, Tensor]) -> str:
        """What was told since the last batch, or that this one's labels are not as they were; empty if all is well."""
        found, (x, labels) = self._found, batch
        self._found = []
        made: _Made | None = self._made.get(x)
        if made is None or made.labels.shape != labels.shape:
            found.append("a batch stands where none was made")
        elif not torch.equal(labels, made.labels):
            place = int((labels != made.labels).nonzero()[0])
            old, new = int(made.labels[place]), int(labels[place])
            found.append(f"label {place} of the batch was changed in memory: {old} became {new}")
        return first_of(found)

    def after_use(self, batch: tuple[Tensor, Tensor], *, from_source: bool) -> str:
        """That this batch's features are not as they were made; empty if they are.

        ``from_source``: they are made from their images once more, too, and compared bit for bit.
        """
        x = batch[0]
        made: _Made | None = self._made.get(x)
        if made is None:
            return "a batch stands where none was made"
        sums = row_sums(x)
        if not torch.equal(sums, made.sums):
            row = int((sums != made.sums).nonzero()[0])
            return f"the features of example {row} of the batch were changed in memory"
        if from_source and not torch.equal(x.view(torch.uint8), made.again().view(torch.uint8)):
            return "the features of the batch are not those of its images: they were changed in memory"
        return ""


def first_of(found: Sequence[str]) -> str:
    """The first of these findings and how many more there are; empty if there are none."""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return found[0] + more if found else ""
