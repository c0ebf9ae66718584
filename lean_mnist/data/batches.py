"""Batches straight from memory. Shapes: ``B`` batch (the last may be smaller), ``D`` features, ``m`` examples."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor

from lean_mnist.data.augmentation import Augmentation
from lean_mnist.data.datasets import Split
from lean_mnist.data.normalization import Normalization, check_pixels
from lean_mnist.data.splits import generator_for
from lean_mnist.data.watch import BatchWatch, RestingExamples
from lean_mnist.errors import ArgumentError, ConfigError, MemoryFault

Batch = tuple[Tensor, Tensor]  # x (B, D) and y (B,)

_AT_ONCE = 1024  # examples that are gathered and normalised together: few, so that they stay in the processor's cache


def sizes_of(batches: Sequence[Batch]) -> list[int]:
    """Number of examples of each batch."""
    if isinstance(batches, PlannedBatches):
        whole, rest = divmod(batches.end - batches.begin, batches.batch_size)
        return [batches.batch_size] * whole + [rest] * bool(rest)
    return [len(labels) for _, labels in batches]


class HotBatch:
    """Memory for one batch at a time: ``features`` (B, D) float32 and ``labels`` (B,), of up to ``examples``."""

    background = 0.0  # the feature of a pixel of 0, which most may be

    def __init__(self, examples: int, features: int) -> None:
        self.features, self.labels = torch.zeros(examples, features), torch.zeros(examples, dtype=torch.int64)

    def take(self, sizes: Sequence[int], new: object) -> tuple[Tensor, Tensor, list[Batch]]:
        """As of :class:`BatchRing`, of one batch."""
        batch = self.features[: sizes[0]], self.labels[: sizes[0]]
        return *batch, [batch]

    def holds(self, batch: Batch) -> bool:
        """``True`` for a batch that lies here."""
        return batch[0].data_ptr() == self.features.data_ptr()


class BatchRing:
    """Static memory for so many ``chunks`` of batches, written in turn, for captured steps to find their inputs."""

    batches = 8  # of a chunk: as many as are worth a graph of their steps

    def __init__(self, chunks: int) -> None:
        self._slots = itertools.cycle([_Slot() for _ in range(chunks)])
        self._addresses: set[int] = set()

    def take(self, sizes: Sequence[int], new: Callable[[int], Batch]) -> tuple[Tensor, Tensor, list[Batch]]:
        """All features (m, D), all labels (m,), and each batch of these ``sizes``; ``new`` makes so many examples."""
        x, y, batches = next(self._slots).views(tuple(sizes), new)
        self._addresses.update(features.data_ptr() for features, _ in batches)
        return x, y, batches

    def holds(self, batch: Batch) -> bool:
        """``True`` for a batch that lies in a slot."""
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


@dataclass(frozen=True)
class PlannedBatches(Sequence[Batch]):
    """Batches in a row, each made when it is asked for, in the memory that the one before was made in.

    They have the examples ``order[begin:end]`` of ``images`` (m, rows, columns) and ``labels`` (m,), so many at a time.
    """

    images: Tensor
    labels: Tensor
    order: Tensor
    noted: Tensor  # ``order`` as it was drawn
    begin: int
    end: int
    batch_size: int
    normalization: Normalization
    resting: RestingExamples | None  # sums of these images and labels, where they are watched
    make: Callable[[int, int], list[Batch]]

    @property
    def by_pixel(self) -> bool:
        """True if a feature depends on its pixel alone."""
        return self.normalization.kind != "per-image"

    def examples(self, count: int) -> int:
        """Number of examples of the first ``count`` batches."""
        return min(count * self.batch_size, self.end - self.begin)

    def __len__(self) -> int:
        return -(-(self.end - self.begin) // self.batch_size)

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> "PlannedBatches": ...

    def __getitem__(self, index: int | slice) -> "Batch | PlannedBatches":
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            assert step == 1
            begin = self.begin + start * self.batch_size
            return replace(self, begin=begin, end=max(begin, min(self.end, self.begin + stop * self.batch_size)))
        begin, end = self._range(index)
        return self.make(begin, end)[0]

    def features(self, index: int) -> Tensor:
        """Features of a batch, made of their images by themselves."""
        begin, end = self._range(index)
        return self.normalization.apply(self.images.index_select(0, self.noted[begin:end]), torch.float32)

    def _range(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        at = self.begin + index * self.batch_size
        return at, min(at + self.batch_size, self.end)


class Batches:
    """The batches of a split, epoch by epoch.

    The images stay uint8, on ``device``. The order of an epoch and how its images are deformed are a pure function of
    the seed and the epoch's number, so a run can go on at any batch without replaying what came before.

    Args: ``split`` with m >= 1 examples; ``dtype`` of the features; ``part`` says which rows of a batch of so many
    examples are handed out, where several processes share every batch; ``memory`` is where batches are written, by all
    iterators; without it each is a new tensor. Raises :class:`ConfigError` for a batch size below 1 and
    :class:`ArgumentError` for pixels that are not uint8, no examples, or a label that is none of the ``classes``.
    """

    def __init__(
        self,
        split: Split,
        normalization: Normalization,
        batch_size: int,
        seed: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        augmentation: Augmentation | None = None,
        part: Callable[[int], slice] | None = None,
        memory: BatchRing | HotBatch | None = None,
        classes: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch-size: {batch_size}, expected 1 or more")
        check_pixels("images", split.images)
        split.check_labels(classes)
        self.split = Split(split.images.to(device).contiguous(), split.labels.to(device).contiguous())
        self.normalization, self.batch_size, self.seed, self.dtype = normalization, batch_size, seed, dtype
        self.augmentation, self.part, self._memory = augmentation, part, memory
        if isinstance(memory, HotBatch):
            memory.background = normalization.background
        together = max(1, _AT_ONCE // batch_size) if memory is None else 1
        self._at_once = batch_size * (memory.batches if isinstance(memory, BatchRing) else together)
        self.watch: BatchWatch | None = None  # compares everything with checksums, once :meth:`watched` was asked for

    def watched(self) -> BatchWatch:
        """Take checksums of the split as it is now, and compare whatever is read from now on with them."""
        if self.watch is None:
            self.watch = BatchWatch(self.split.images, self.split.labels)
        return self.watch

    @property
    def steps_per_epoch(self) -> int:
        """``ceil(m / batch_size)``: the partial last batch is kept."""
        return -(-len(self.split) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches ``start``, ``start + 1``, ... of an epoch: ``x`` (B, D) of ``dtype`` and ``y`` (B,) int64.

        Where several processes share them, this one's part of each, which may be empty. Raises :class:`ArgumentError`,
        at once, for a negative epoch or a start outside the epoch.
        """
        return itertools.chain.from_iterable(self.chunks(epoch, start))

    def chunks(self, epoch: int, start: int = 0) -> Iterator[Sequence[Batch]]:
        """The same, some batches at a time; those of a chunk hold until the next one is asked for, or longer."""
        if epoch < 0:
            raise ArgumentError(f"epoch: {epoch}, expected 0 or more")
        if not 0 <= start <= self.steps_per_epoch:
            raise ArgumentError(f"start: {start}, expected 0 to {self.steps_per_epoch}, the batches of an epoch")
        return self._chunks(epoch, start)

    def _chunks(self, epoch: int, start: int) -> Iterator[Sequence[Batch]]:
        size, (images, labels), first = self.batch_size, (self.split.images, self.split.labels), start * self.batch_size
        order, watch, resting = self._order(epoch), self.watch, None if self.watch is None else self.watch.resting
        if self.augmentation is not None:  # deformed in the epoch's order, all that is left of it at once
            chosen = order[first:]
            images, labels = images.index_select(0, chosen), labels.index_select(0, chosen)
            if watch is not None and resting is not None:
                watch.tell(resting.difference(chosen, images, labels))
            images = self.augmentation.apply_epoch(images, self.seed, epoch, first)
            order, first = torch.arange(len(labels), device=labels.device), 0
            if watch is not None:
                resting = RestingExamples(images, labels, f"of epoch {epoch + 1}, deformed,")
        noted = order if watch is None else order.clone()

        def made(begin: int, end: int) -> list[Batch]:
            sizes = [min(size, end - at) for at in range(begin, end, size)]
            chosen = order[begin:end]
            if watch is not None and not torch.equal(chosen, noted[begin:end]):
                raise MemoryFault(f"the order of the examples of epoch {epoch + 1} was changed in memory")
            if self.part is not None:
                parts = [batch[self.part(len(batch))] for batch in chosen.split(size)]
                chosen, sizes = torch.cat(parts), [len(part) for part in parts]
            some, their_labels = images.index_select(0, chosen), labels.index_select(0, chosen)
            if watch is not None and resting is not None:
                watch.tell(resting.difference(chosen, some, their_labels))
            x, y, batches = self._take(sizes)
            y.copy_(their_labels)
            self.normalization.apply(some, self.dtype, x)
            if watch is not None:
                for number, ((features, _), own) in enumerate(zip(batches, their_labels.split(sizes), strict=True)):
                    watch.made(features, own, functools.partial(self._features, images, chosen, sizes, number))
            return batches

        if isinstance(self._memory, HotBatch) and self.part is None:
            yield PlannedBatches(
                images, labels, order, noted, first, len(labels), size, self.normalization, resting, made
            )
            return
        for begin in range(first, len(labels), self._at_once):
            yield made(begin, min(begin + self._at_once, len(labels)))

    def _take(self, sizes: Sequence[int]) -> tuple[Tensor, Tensor, list[Batch]]:
        if self._memory is not None:
            return self._memory.take(sizes, self._new)
        x, y = self._new(sum(sizes))
        return x, y, list(zip(x.split(sizes), y.split(sizes), strict=True))

    def _order(self, epoch: int) -> Tensor:
        # Drawn on the CPU whatever the device, so that a seed means the same order everywhere.
        generator = generator_for(self.seed, "epoch", epoch)
        return torch.randperm(len(self.split), generator=generator).to(self.split.labels.device)

    def _features(self, images: Tensor, chosen: Tensor, sizes: list[int], number: int) -> Tensor:
        return self.normalization.apply(images.index_select(0, chosen.split(sizes)[number]), self.dtype)

    def _new(self, examples: int) -> Batch:
        images, labels = self.split.images, self.split.labels
        return images.new_empty((examples, images[0].numel()), dtype=self.dtype), labels.new_empty(examples)
