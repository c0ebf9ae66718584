"""Cutting the validation split."""

import re

import pytest
import torch

from lean_mnist.data.datasets import Dataset, Split
from lean_mnist.data.splits import resolve_validation_size, split_training
from lean_mnist.errors import ConfigError


def numbered(m: int) -> Split:
    """``m`` examples whose first two pixels and label spell their own index."""
    images = torch.zeros(m, 2, 2, dtype=torch.uint8)
    index = torch.arange(m)
    images[:, 0, 0], images[:, 0, 1] = (index // 256).to(torch.uint8), (index % 256).to(torch.uint8)
    return Split(images, index)


def indices(split: Split) -> list[int]:
    """Which examples these are; checks that images and labels went together."""
    found = split.images[:, 0, 0].long() * 256 + split.images[:, 0, 1].long()
    assert found.tolist() == split.labels.tolist()
    return found.tolist()


@pytest.mark.parametrize(("m", "size", "expected"), [(120, None, 10), (120, 7, 7), (5, None, 1), (2, 1, 1), (9, 8, 8)])
def test_all_examples_are_used_once_in_file_order(m: int, size: int | None, expected: int) -> None:
    train, validation = split_training(numbered(m), validation_size=size, limit_train=None, seed=3)
    assert len(validation) == expected
    assert sorted(indices(train) + indices(validation)) == list(range(m))
    assert indices(train) == sorted(indices(train))
    assert indices(validation) == sorted(indices(validation))
    assert train.images.is_contiguous()


def test_the_seed_decides() -> None:
    def validation(seed: int, limit: int | None = None) -> list[int]:
        return indices(split_training(numbered(600), validation_size=50, limit_train=limit, seed=seed)[1])

    assert validation(0) == validation(0)
    assert validation(0) != validation(1)
    assert validation(0, limit=100) == validation(0, limit=100)
    assert validation(0, limit=100) != validation(1, limit=100)
    assert validation(-1) != validation(2**70)  # any integer will do


def test_the_choice_is_spread_over_the_file() -> None:
    _, validation = split_training(numbered(6000), validation_size=1000, limit_train=None, seed=0)
    thirds = torch.bincount(torch.tensor(indices(validation)) // 2000, minlength=3)
    assert (thirds - 1000 / 3).abs().max() < 75  # 5 standard deviations


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    split_training(numbered(100), validation_size=None, limit_train=None, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [None, 1, 30, 100])
def test_limit_train_takes_exactly_the_first(size: int | None) -> None:
    train, validation = split_training(numbered(150), validation_size=size, limit_train=50, seed=4)
    assert indices(train) == list(range(50))
    assert len(validation) == (12 if size is None else size)
    assert min(indices(validation)) >= 50
    assert len(set(indices(validation))) == len(validation)


def test_the_default_size_shrinks_to_what_limit_train_leaves() -> None:
    assert resolve_validation_size(None, examples=60_000) == 5_000
    assert resolve_validation_size(None, examples=60_000, limit_train=1_000) == 5_000
    assert resolve_validation_size(None, examples=60_000, limit_train=59_000) == 1_000
    assert resolve_validation_size(5_000, examples=60_000, limit_train=55_000) == 5_000


WRONG = [
    (0, None, "validation-size: 0, expected 1 or more"),
    (-3, None, "validation-size: -3, expected 1 or more"),
    (-3, 5, "validation-size: -3, expected 1 or more"),
    (None, 0, "limit-train: 0, expected 1 or more"),
    (None, -1, "limit-train: -1, expected 1 or more"),
    (
        100,
        None,
        "validation-size: 100, expected at most 99: there are 100 training examples, "
        "and 1 of them has to be left for training",
    ),
    (
        41,
        60,
        "validation-size: 41, expected at most 40: there are 100 training examples, "
        "and limit-train 60 of them have to be left for training",
    ),
    (
        None,
        100,
        "limit-train: 100, expected at most 99: there are 100 training examples, "
        "and at least 1 has to be left for validation",
    ),
    (
        5,
        1000,
        "limit-train: 1000, expected at most 99: there are 100 training examples, "
        "and at least 1 has to be left for validation",
    ),
]


@pytest.mark.parametrize(("size", "limit", "expected"), WRONG)
def test_sizes_that_do_not_fit(size: int | None, limit: int | None, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        split_training(numbered(100), validation_size=size, limit_train=limit, seed=0)


def test_a_single_example_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match="validation-size: 1, expected at most 0: there are 1 training examples"):
        split_training(numbered(1), validation_size=None, limit_train=None, seed=0)


def test_real_mnist(real_mnist: Dataset) -> None:
    train, validation = split_training(real_mnist.train, validation_size=None, limit_train=None, seed=0)
    assert (len(train), len(validation)) == (55_000, 5_000)
    assert (torch.bincount(train.labels) + torch.bincount(validation.labels)).tolist() == (
        torch.bincount(real_mnist.train.labels).tolist()
    )
    first, _ = split_training(real_mnist.train, validation_size=None, limit_train=1_000, seed=0)
    assert first.images.data_ptr() == real_mnist.train.images.data_ptr()  # no copy
