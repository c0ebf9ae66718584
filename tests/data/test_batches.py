"""Batches: every example once, order a pure function of seed and epoch, resumable anywhere."""

import re
from collections import deque
from typing import Any

import pytest
import torch

from lean_mnist.data.augmentation import Augmentation
from lean_mnist.data.batches import Batches, BatchRing
from lean_mnist.data.datasets import Split, load_dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.data.splits import generator_for
from lean_mnist.errors import ArgumentError, ConfigError
from lean_mnist.nn.step import RING_DEPTH

UNIT = Normalization("unit", 0.0, 1.0)


def numbered(m: int) -> Split:
    """``m`` <= 256 examples of one row of three pixels, all equal to the label."""
    index = torch.arange(m)
    return Split(index.to(torch.uint8)[:, None, None].repeat(1, 1, 3), index)


def order(batches: Batches, epoch: int, start: int = 0) -> list[int]:
    """The labels of an epoch, in order; checks that the images went with them."""
    result: list[int] = []
    for x, y in batches.epoch(epoch, start):
        assert x.dtype == torch.float32
        assert x.is_contiguous()
        assert y.dtype == torch.int64
        assert torch.equal(x, y[:, None].expand(-1, 3).float())
        result += y.tolist()
    return result


@pytest.mark.parametrize(
    ("m", "batch_size", "sizes"),
    [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (9, 1, [1] * 9), (3, 100, [3]), (1, 1, [1]), (129, 128, [128, 1])],
)
def test_sizes(m: int, batch_size: int, sizes: list[int]) -> None:
    batches = Batches(numbered(m), UNIT, batch_size, seed=0)
    assert batches.steps_per_epoch == len(sizes)
    assert [len(y) for _, y in batches.epoch(0)] == sizes
    assert [tuple(x.shape) for x, _ in batches.epoch(0)] == [(size, 3) for size in sizes]
    assert sorted(order(batches, 0)) == list(range(m))


def test_order_is_a_pure_function_of_seed_and_epoch() -> None:
    batches = Batches(numbered(200), UNIT, 7, seed=1)
    orders = [order(batches, epoch) for epoch in range(4)]
    assert len({tuple(o) for o in orders}) == 4
    torch.rand(3)  # no other use of random numbers matters,
    again = Batches(numbered(200), UNIT, 50, seed=1)
    assert [order(again, epoch) for epoch in (3, 0, 2, 1)] == [orders[3], orders[0], orders[2], orders[1]]  # no history
    assert order(Batches(numbered(200), UNIT, 7, seed=2), 0) not in orders  # seed 2 is not seed 1, one epoch on
    before = torch.get_rng_state()
    order(batches, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_resuming_at_any_batch() -> None:
    batches = Batches(numbered(23), UNIT, 5, seed=3)
    whole = order(batches, 6)
    for start in range(batches.steps_per_epoch + 1):
        assert order(batches, 6, start) == whole[5 * start :]


@pytest.mark.parametrize("kind", ["unit", "per-image"])
def test_parts_put_together_are_the_batches(kind: str) -> None:
    index = torch.arange(1501)  # of more batches than are gathered at once, the last one of a single example
    split = Split(index.to(torch.uint8)[:, None, None].repeat(1, 2, 3), index)
    whole = Batches(split, Normalization(kind, 0.0, 255.0), 300, seed=0)
    halves = [
        Batches(split, whole.normalization, 300, seed=0, part=part)
        for part in (lambda n: slice(n // 2), lambda n: slice(n // 2, n))
    ]
    found = zip(whole.epoch(2, 1), *(half.epoch(2, 1) for half in halves), strict=True)
    for (x, y), *parts in found:
        assert [len(labels) for _, labels in parts] == [len(y) // 2, len(y) - len(y) // 2]
        assert torch.equal(torch.cat([x for x, _ in parts]), x)
        assert torch.equal(torch.cat([labels for _, labels in parts]), y)


@pytest.mark.parametrize("size", [1, 64, 100, 700])
@pytest.mark.parametrize("examples", [3, 64, 256])
@pytest.mark.parametrize("kind", ["standard", "per-image"])
def test_batches_in_a_ring_are_the_same_and_hold_while_others_come(size: int, examples: int, kind: str) -> None:
    split, normalization = numbered(examples), Normalization(kind, 3.0, 2.0)
    anew = Batches(split, normalization, size, seed=1, dtype=torch.bfloat16)
    ring = BatchRing(RING_DEPTH + 1)
    static = Batches(split, normalization, size, seed=1, dtype=torch.bfloat16, memory=ring)
    places, latest = set(), deque[tuple[Any, Any]](maxlen=1 + RING_DEPTH)
    for epoch in range(4):
        for expected, batch in zip(anew.epoch(epoch), static.epoch(epoch), strict=True):
            assert ring.holds(batch)
            assert not ring.holds(expected)
            latest.append((expected, batch))
            places.add((batch[0].data_ptr(), len(batch[1])))
            for (x, y), (our_x, our_y) in latest:
                assert torch.equal(our_x, x)
                assert torch.equal(our_y, y)
    assert len(places) <= (1 + RING_DEPTH) * (1 + min(-(-256 // size), anew.steps_per_epoch))


def test_iterators_are_independent() -> None:
    batches = Batches(numbered(40), UNIT, 8, seed=0)
    expected = [order(batches, epoch) for epoch in (0, 1)]
    pairs = list(zip(batches.epoch(0), batches.epoch(1), strict=True))
    assert [torch.cat([pair[i][1] for pair in pairs]).tolist() for i in (0, 1)] == expected


def test_a_batch_may_be_changed_by_whoever_gets_it() -> None:
    split = numbered(10)
    batches = Batches(split, UNIT, 4, seed=0)
    for x, _ in batches.epoch(0):
        x.fill_(-1)
    assert sorted(order(batches, 0)) == list(range(10))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_batches_are_normalised(dtype: torch.dtype) -> None:
    digits = load_dataset("digits", ".")
    fitted = Normalization.fit("standard", digits.train.images, digits.maximum)
    batches = Batches(digits.test, fitted, 100, seed=0, dtype=dtype, device=torch.device("cpu"))
    xs, ys = zip(*batches.epoch(0), strict=True)
    chosen = torch.randperm(len(digits.test), generator=generator_for(0, "epoch", 0))
    assert torch.equal(torch.cat(xs), fitted.apply(digits.test.images[chosen], dtype))
    assert torch.equal(torch.cat(ys), digits.test.labels[chosen])
    assert xs[0].dtype == dtype


def test_wrong_arguments_are_refused_at_once() -> None:
    for size in (0, -4):
        with pytest.raises(ConfigError, match=f"^batch-size: {size}, expected 1 or more$"):
            Batches(numbered(3), UNIT, size, seed=0)
    batches = Batches(numbered(10), UNIT, 4, seed=0)
    for start in (-1, 4):
        message = re.escape(f"start: {start}, expected 0 to 3, the batches of an epoch")
        with pytest.raises(ArgumentError, match=f"^{message}$"):
            batches.epoch(0, start)
    with pytest.raises(ArgumentError, match=r"^epoch: -1, expected 0 or more$"):
        batches.epoch(-1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["unit", "per-image"])
def test_the_device_changes_neither_order_nor_values(kind: str) -> None:
    digits = load_dataset("digits", ".")
    fitted = Normalization.fit(kind, digits.train.images, 255)
    pairs = [Batches(digits.train, fitted, 64, seed=0, device=device).epoch(2) for device in ("cpu", "cuda")]
    for (x, y), (x_cuda, y_cuda) in zip(*pairs, strict=True):
        assert torch.equal(y, y_cuda.cpu())
        if kind == "unit":
            assert torch.equal(x, x_cuda.cpu())  # correctly rounded divisions on both
        else:
            torch.testing.assert_close(x, x_cuda.cpu())


def test_augmented_epochs_differ_and_go_on_anywhere() -> None:
    split = numbered(250)
    augmentation = Augmentation(shift=1, elastic=0.5)
    batches = Batches(split, UNIT, 7, seed=1, augmentation=augmentation)
    plain = Batches(split, UNIT, 7, seed=1)
    first, second = ([x for x, _ in batches.epoch(epoch)] for epoch in (0, 1))
    for x, again in zip(first[20:], batches.epoch(0, 20), strict=True):
        assert torch.equal(x, again[0])
    assert [y.tolist() for _, y in batches.epoch(0)] == [y.tolist() for _, y in plain.epoch(0)]
    assert not torch.equal(torch.cat(first), torch.cat([x for x, _ in plain.epoch(0)]))
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert torch.equal(batches.split.images, split.images)
