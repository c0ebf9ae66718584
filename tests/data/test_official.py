"""Official data are known by their content; all others are loaded, and said to be of unknown origin."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lean_mnist.data.batches import Batches
from lean_mnist.data.datasets import Dataset, Split, load_dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.data.official import FINGERPRINTS, LAYOUTS, OFFICIAL_SHA256, PARTS, Origin
from lean_mnist.errors import ArgumentError
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates.document import split_data
from tests.support.idx_files import write_idx

WriteSet = Callable[..., tuple[np.ndarray, ...]]  # the fixture write_set of conftest.py


@pytest.fixture
def digits(tmp_path: Path) -> Dataset:
    return load_dataset("digits", tmp_path)


def altered(dataset: Dataset, part: int) -> Dataset:
    """``dataset`` with another last pixel or label in one of ``PARTS``."""
    arrays = [dataset.train.images, dataset.train.labels, dataset.test.images, dataset.test.labels]
    arrays[part] = arrays[part].clone()
    arrays[part].view(-1)[-1] ^= 1
    return dataclasses.replace(dataset, train=Split(*arrays[:2]), test=Split(*arrays[2:]))


def test_one_altered_number_is_noticed(digits: Dataset) -> None:
    assert (digits.origin, digits.doubt()) == (Origin.OFFICIAL, None)
    for part, name in enumerate(PARTS):
        other = altered(digits, part)
        assert other.origin is Origin.UNKNOWN
        expected = f"not the official data, by SHA-256 ({name}); nobody vouches for where it comes from"
        assert other.doubt() == f"Data set 'digits' from scikit-learn: {expected}"


def test_the_name_counts(digits: Dataset) -> None:
    assert dataclasses.replace(digits, name="mnist").origin is Origin.UNKNOWN
    found = dataclasses.replace(digits, name="kmnist").doubt()
    assert found is not None
    assert "the SHA-256 of its official files is not known here; nobody vouches for" in found


def test_other_files_of_the_name_are_loaded_and_said_to_be_others(
    tmp_path: Path, write_set: WriteSet, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path)
    assert load_dataset("mnist", tmp_path, says=False).origin is Origin.UNKNOWN
    assert capsys.readouterr().err == ""
    load_dataset("mnist", tmp_path)
    line = f"Data set 'mnist' from {tmp_path / 'MNIST/raw'}: not the official data, by SHA-256 ({', '.join(PARTS)}); "
    assert capsys.readouterr().err == f"{line}nobody vouches for where it comes from\n"


def test_real_mnist_is_known_and_one_altered_pixel_is_noticed(
    real_mnist: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (real_mnist.origin, real_mnist.doubt()) == (Origin.OFFICIAL, None)
    other = altered(real_mnist, 0)
    raw = tmp_path / LAYOUTS["mnist"].raw
    raw.mkdir(parents=True)
    arrays = (other.train.images, other.train.labels, other.test.images, other.test.labels)
    for file, array in zip(LAYOUTS["mnist"].files, arrays, strict=True):
        write_idx(raw / file, array.numpy().astype(np.uint8))
    assert load_dataset("mnist", tmp_path).origin is Origin.UNKNOWN
    assert "SHA-256 (training images)" in capsys.readouterr().err


def test_hashes_are_those_of_the_files(real_mnist: Dataset, digits: Dataset) -> None:
    assert set(OFFICIAL_SHA256) == set(FINGERPRINTS) == {"mnist", "digits"}
    for dataset in (real_mnist, digits):
        splits = [split_data(dataset, split, 10).fields for split in ("train", "test")]
        assert OFFICIAL_SHA256[dataset.name] == tuple(
            split[kind]["sha256"] for split in splits for kind in ("images", "labels")
        )
        assert FINGERPRINTS[dataset.name] == dataset.fingerprint()


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([0, 10, 1], "a label of 10, expected whole numbers from 0 to 9"),
        ([0, -1, 1], "a label of -1, expected whole numbers from 0 to 9"),
        ([], "3 images and 0 labels, expected equally many, and at least 1"),
    ],
)
def test_labels_that_are_no_class_are_refused_before_any_step(digits: Dataset, labels: list[int], found: str) -> None:
    wrong = Split(digits.test.images[:3], torch.tensor(labels, dtype=torch.int64))
    with pytest.raises(ArgumentError, match=found):
        Batches(wrong, Normalization("unit", 0.0, 16.0), 2, seed=0, classes=10)
    with pytest.raises(ArgumentError, match=found):
        dataclasses.replace(digits, train=wrong)
    with pytest.raises(ArgumentError, match=found):
        dataclasses.replace(digits, test=wrong)


def test_an_empty_split_is_refused(digits: Dataset) -> None:
    with pytest.raises(ArgumentError, match="0 images and 0 labels, expected equally many, and at least 1"):
        dataclasses.replace(digits, test=Split(digits.test.images[:0], digits.test.labels[:0]))


def test_the_checker_knows_the_same_hashes() -> None:
    expected = {
        (name, split): pair
        for name, hashes in OFFICIAL_SHA256.items()
        for split, pair in (("train", hashes[:2]), ("test", hashes[2:]))
    }
    assert expected == checker.OFFICIAL
