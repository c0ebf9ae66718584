"""Checksums: no flipped bit leaves them as they were, whatever the tensor, and they tell where it is."""

from __future__ import annotations

import random
import weakref

import pytest
import torch

from benchmarks.bit_flips import flip_bit
from lean_mnist.data.watch import BatchWatch
from lean_mnist.memory import Checksum, row_sums

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8)
SIZES = (1, 3, 8, 191, 385, 600, 2000, 101_770, 101_771)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_every_flip_is_found_and_placed(size: int, dtype: torch.dtype) -> None:
    print(f"seed {size}")
    rng, tensor = random.Random(size), torch.arange(size).remainder(200).to(dtype)
    checksum, bits = Checksum(tensor), 8 * tensor.element_size()
    for element in (0, size - 1, *(rng.randrange(size) for _ in range(20))):
        turn = flip_bit(tensor, element, rng.randrange(bits))
        assert not checksum.holds()
        first, last = checksum.changed()
        assert 0 <= first <= element <= last < size
        assert (last - first + 1) * tensor.element_size() <= 8 * 2 * 512
        turn()
        assert checksum.holds()


def test_two_flips_are_found() -> None:
    rng, tensor = random.Random(0), torch.randn(101_770, generator=torch.Generator().manual_seed(0))
    checksum = Checksum(tensor)
    for _ in range(500):
        turns = [flip_bit(tensor, place, rng.randrange(32)) for place in rng.sample(range(len(tensor)), 2)]
        assert not checksum.holds()
        for turn in turns:
            turn()
    # Two of one bit, in one block, in opposite directions, are what it cannot see.
    words = tensor.view(torch.int64)
    one, other = (next(i for i in range(100) if (int(words[i]) >> 7 & 1) == bit) for bit in (0, 1))
    words[one] ^= 1 << 7
    words[other] ^= 1 << 7
    assert checksum.holds()


def test_what_is_noted_anew_holds() -> None:
    tensor = torch.zeros(1000)
    checksum = Checksum(tensor)
    tensor[7] = -0.0
    assert not checksum.holds()
    checksum.note()
    assert checksum.holds()


@pytest.mark.parametrize("features", [1, 2, 4, 7, 64, 784])
def test_the_sum_of_a_row_changes_with_each_of_its_bits(features: int) -> None:
    images = torch.arange(3 * features).remainder(251).to(torch.uint8).view(3, 1, features)
    before = row_sums(images)
    for element in (features, 2 * features - 1):
        for bit in range(8):
            turn = flip_bit(images, element, bit)
            assert (row_sums(images) != before).tolist() == [False, True, False]
            turn()
    assert row_sums(images).equal(before)
    assert row_sums(images[:0]).shape == (0,)


def test_a_watched_batch_goes_when_nobody_else_has_it() -> None:
    watch = BatchWatch(torch.zeros(3, 2, 2, dtype=torch.uint8), torch.arange(3))
    x, labels = torch.rand(3, 4), torch.arange(3)
    watch.made(x, labels.clone(), torch.rand(3, 4).clone)
    assert watch.difference((x, labels), from_source=False) == ""
    kept = weakref.ref(x)
    del x
    assert kept() is None
