"""Named data sets: where they are searched, what comes back, and what ``auto`` does."""

import hashlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lean_mnist.data.datasets import DATASETS, Dataset, Split, load_dataset
from lean_mnist.data.names import AUTO, DATA_VARIABLE, DATASET_CHOICES
from lean_mnist.data.official import LAYOUTS
from lean_mnist.errors import DataUnavailable
from tests.support.idx_files import write_idx

WriteSet = Callable[..., tuple[np.ndarray, ...]]  # the fixture write_set of conftest.py


def listing(root: Path) -> dict[str, tuple[int, int]]:
    """Every path below ``root`` with its size and time of change."""
    return {
        str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(root.rglob("*"))
    }


def test_names() -> None:
    assert DATASETS == ("mnist", "fashion-mnist", "kmnist", "qmnist", "emnist-digits", "digits")
    assert (AUTO, *DATASETS) == DATASET_CHOICES
    assert set(LAYOUTS) == set(DATASETS) - {"digits"}


def test_names_can_be_read_without_loading_torch() -> None:
    code = "import sys, lean_mnist.data.names; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("packed", [False, True], ids=["raw", "gzip"])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_loads_from_data_dir(tmp_path: Path, write_set: WriteSet, name: str, packed: bool) -> None:
    arrays = write_set(tmp_path, name, packed=packed)
    dataset = load_dataset(name, tmp_path)
    assert (dataset.name, dataset.classes, dataset.maximum) == (name, 10, 255)
    assert dataset.source == str(tmp_path / LAYOUTS[name].raw)
    assert (dataset.image_shape, dataset.features) == ((28, 28), 784)
    assert (len(dataset.train), len(dataset.test)) == (24, 12)
    found = (dataset.train.images, dataset.train.labels, dataset.test.images, dataset.test.labels)
    for tensor, array, dtype in zip(found, arrays, (torch.uint8, torch.int64) * 2, strict=True):
        assert tensor.dtype == dtype
        assert tensor.is_contiguous()
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_qmnist_labels_are_the_first_column(tmp_path: Path, write_set: WriteSet) -> None:
    arrays = write_set(tmp_path, "qmnist", packed=True)
    dataset = load_dataset("qmnist", tmp_path)
    assert dataset.train.labels.dtype == torch.int64
    np.testing.assert_array_equal(dataset.train.labels.numpy(), arrays[1][:, 0])
    np.testing.assert_array_equal(dataset.test.labels.numpy(), arrays[3][:, 0])


def test_qmnist_test_split_is_the_first_10000(tmp_path: Path, write_set: WriteSet) -> None:
    arrays = write_set(tmp_path, "qmnist", train=3, test=10_003)
    dataset = load_dataset("qmnist", tmp_path)
    assert len(dataset.test) == len(dataset.test.images) == 10_000
    np.testing.assert_array_equal(dataset.test.images[-1].numpy(), arrays[2][9_999])


def test_emnist_is_turned_upright(tmp_path: Path, write_set: WriteSet) -> None:
    arrays = write_set(tmp_path, "emnist-digits")
    dataset = load_dataset("emnist-digits", tmp_path)
    assert dataset.train.images.is_contiguous()
    assert dataset.train.images[5, 2, 20] == arrays[0][5, 20, 2]
    np.testing.assert_array_equal(dataset.test.images.numpy(), arrays[2].transpose(0, 2, 1))


def test_search_order(tmp_path: Path, write_set: WriteSet, monkeypatch: pytest.MonkeyPatch) -> None:
    given, own = tmp_path / "given", tmp_path / "own"
    write_set(given, seed=1)
    write_set(own, seed=2)
    write_set(own, "kmnist", seed=3)
    monkeypatch.setenv(DATA_VARIABLE, str(given))
    assert load_dataset("mnist", own).source == str(given / "MNIST/raw")
    assert load_dataset("kmnist", own).source == str(own / "KMNIST/raw")
    monkeypatch.setenv(DATA_VARIABLE, "")  # empty means unset
    assert load_dataset("mnist", own).source == str(own / "MNIST/raw")


def test_home_folder_is_expanded(tmp_path: Path, write_set: WriteSet, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "data")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_dataset("mnist", "~/data").source == str(tmp_path / "data/MNIST/raw")
    monkeypatch.setenv(DATA_VARIABLE, "~/data")
    assert load_dataset("auto", tmp_path / "absent").source == str(tmp_path / "data/MNIST/raw")


def test_the_given_folder_is_never_written(
    tmp_path: Path, write_set: WriteSet, monkeypatch: pytest.MonkeyPatch, urls_asked: list[str]
) -> None:
    given = tmp_path / "given"
    write_set(given, packed=True)
    monkeypatch.setenv(DATA_VARIABLE, str(given))
    before = listing(tmp_path)
    load_dataset("mnist", tmp_path / "own")
    assert listing(tmp_path) == before  # no data-dir is made either
    assert urls_asked == []
    for own in (given, given / "below"):  # would be downloaded into the given folder
        with pytest.raises(DataUnavailable, match="data-dir lies in LEAN_MNIST_DATA, which is never written"):
            load_dataset("kmnist", own)
    assert urls_asked == []
    with pytest.raises(DataUnavailable):
        load_dataset("kmnist", tmp_path / "own")
    assert urls_asked != []
    assert listing(tmp_path) == before


def test_packed_and_unpacked_may_be_mixed(tmp_path: Path, write_set: WriteSet) -> None:
    write_set(tmp_path, packed=True)
    raw = tmp_path / "MNIST/raw"
    write_idx(raw / "t10k-labels-idx1-ubyte", np.arange(12, dtype=np.uint8) % 10)
    assert load_dataset("mnist", tmp_path).test.labels.tolist() == [*range(10), 0, 1]  # the unpacked one is read


def test_auto_is_mnist_where_it_is(tmp_path: Path, write_set: WriteSet, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path)
    assert load_dataset("auto", tmp_path).name == "mnist"
    assert "digits" not in capsys.readouterr().err


def test_auto_without_mnist_says_so_in_two_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = load_dataset("auto", tmp_path / "own")
    assert dataset.name == "digits"
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = captured.err.splitlines()
    for word in ("'mnist'", "MNIST/raw", str(tmp_path / "own"), "LEAN_MNIST_DATA", "--data-dir"):
        assert word in first
    for word in ("digits", "8x8", "scikit-learn", "instead"):
        assert word in second


def test_digits(tmp_path: Path) -> None:
    digits = load_dataset("digits", tmp_path / "absent")
    assert (digits.name, digits.classes, digits.maximum, digits.source) == ("digits", 10, 16, "scikit-learn")
    assert (digits.image_shape, digits.features) == ((8, 8), 64)
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.labels.dtype == torch.int64
    assert digits.train.images.max() == 16
    counts = Counter(digits.test.labels.tolist())
    assert set(counts.values()) <= {35, 36, 37}
    assert len(counts) == 10
    # Nothing lost, nothing twice.
    from sklearn.datasets import load_digits

    both = np.concatenate([digits.train.images.numpy(), digits.test.images.numpy()]).reshape(-1, 64)
    everything = load_digits().data.astype(np.uint8)
    np.testing.assert_array_equal(both[np.lexsort(both.T)], everything[np.lexsort(everything.T)])
    assert digits.fingerprint() == load_dataset("digits", tmp_path).fingerprint()
    # The choice is a constant of the project: results of different years and machines speak about the same examples.
    assert digits.fingerprint() == "b373fc17e151bcecc231747e5c9e29d521be7b4f0cd22dde91150b2bdfa04113"


def test_fingerprint(tmp_path: Path, write_set: WriteSet, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "a")
    write_set(tmp_path / "b", packed=True)
    write_set(tmp_path / "a", "kmnist")
    dataset = load_dataset("mnist", tmp_path / "a")
    fingerprint = dataset.fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", fingerprint)
    assert load_dataset("mnist", tmp_path / "b").fingerprint() == fingerprint  # neither place nor packing counts
    assert load_dataset("kmnist", tmp_path / "a").fingerprint() != fingerprint  # the name does
    for split in ("train", "test"):
        for field in ("images", "labels"):
            changed = {name: getattr(getattr(dataset, split), name).clone() for name in ("images", "labels")}
            changed[field].view(-1)[-1] ^= 1
            splits = {"train": dataset.train, "test": dataset.test, split: Split(**changed)}
            other = Dataset("mnist", splits["train"], splits["test"], classes=10, maximum=255, source="")
            assert other.fingerprint() != fingerprint, (split, field)
    wide = Split(dataset.train.images.reshape(-1, 14, 56), dataset.train.labels)  # same bytes, another shape
    assert Dataset("mnist", wide, dataset.test, 10, 255, "").fingerprint() != fingerprint
    monkeypatch.setattr(hashlib, "sha256", None)
    assert dataset.fingerprint() == fingerprint  # computed once


def test_real_mnist(real_mnist: Dataset) -> None:
    assert (len(real_mnist.train), len(real_mnist.test)) == (60_000, 10_000)
    assert real_mnist.train.images.shape == (60_000, 28, 28)
    assert real_mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert real_mnist.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    # LeCun's counts per class
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(real_mnist.train.labels).tolist() == counts
    assert real_mnist.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
