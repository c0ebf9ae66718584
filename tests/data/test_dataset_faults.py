"""Named data sets that are missing, incomplete or damaged: one clear line for each."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lean_mnist.data.datasets import load_dataset
from lean_mnist.data.names import DATA_VARIABLE
from lean_mnist.data.official import LAYOUTS
from lean_mnist.errors import ConfigError, DataError, DataUnavailable
from tests.support.idx_files import write_idx

WriteSet = Callable[..., tuple[np.ndarray, ...]]  # the fixture write_set of conftest.py


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


def test_folders_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for name in ("mnist", "auto"):
        with pytest.raises(DataError) as caught:
            load_dataset(name, file)
        assert one_line(caught) == f"data-dir: {file} is not a folder, expected one that holds MNIST/raw"
    for wrong in (file, tmp_path / "absent"):
        monkeypatch.setenv(DATA_VARIABLE, str(wrong))
        for name in ("mnist", "auto"):
            with pytest.raises(DataError) as caught:
                load_dataset(name, tmp_path)
            expected = f"{DATA_VARIABLE}: {wrong} is not a folder, expected one that holds MNIST/raw"
            assert one_line(caught) == expected
            assert not isinstance(caught.value, DataUnavailable)
    monkeypatch.delenv(DATA_VARIABLE)
    with pytest.raises(
        DataError, match=r"data-dir: 'a\\x00b' holds a null byte, expected a folder that holds MNIST/raw"
    ):
        load_dataset("mnist", "a\0b")
    with pytest.raises(DataUnavailable):
        load_dataset("mnist", "a" * 5000, download=False)
    assert capsys.readouterr().err == ""
    assert load_dataset("digits", file).name == "digits"  # needs no folder


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_a_folder_that_cannot_be_read_is_not_called_missing(
    tmp_path: Path, name: str, write_set: WriteSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system refuses, as it does to those without permission; a superuser has all."""
    write_set(tmp_path)

    def refuse(path: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError) as caught:
        load_dataset(name, tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    assert one_line(caught) == f"{raw}: expected a folder that can be read, found: Permission denied"
    assert not isinstance(caught.value, DataUnavailable)


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_an_incomplete_set_names_what_is_missing(tmp_path: Path, write_set: WriteSet, name: str, index: int) -> None:
    write_set(tmp_path, packed=True)
    missing = tmp_path / "MNIST/raw" / LAYOUTS["mnist"].files[index]
    missing.with_name(f"{missing.name}.gz").unlink()
    with pytest.raises(DataError) as caught:
        load_dataset(name, tmp_path)
    assert not isinstance(caught.value, DataUnavailable)
    assert one_line(caught).startswith(f"{missing}: missing (neither it nor its .gz is there), expected beside ")
    assert one_line(caught).endswith("found 3 of 4 files")


def test_counts_that_disagree(tmp_path: Path, write_set: WriteSet) -> None:
    write_set(tmp_path)
    raw = tmp_path / "MNIST/raw"
    write_idx(raw / "t10k-labels-idx1-ubyte", np.zeros(11, np.uint8))
    with pytest.raises(DataError) as caught:
        load_dataset("mnist", tmp_path)
    images, labels = raw / "t10k-images-idx3-ubyte", raw / "t10k-labels-idx1-ubyte"
    assert one_line(caught) == f"{images} holds 12 images, but {labels} holds 11 labels, expected equally many"


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-images-idx3-ubyte"])
def test_images_of_another_size(tmp_path: Path, write_set: WriteSet, file: str) -> None:
    write_set(tmp_path, train=12, test=12)
    path = tmp_path / "MNIST/raw" / file
    write_idx(path, np.zeros((12, 27, 28), np.uint8))
    with pytest.raises(DataError) as caught:
        load_dataset("mnist", tmp_path)
    assert one_line(caught) == f"{path}: images of 27x28 pixels, expected 28x28"


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_a_damaged_file_is_an_error_and_no_reason_to_fall_back(
    tmp_path: Path, write_set: WriteSet, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path)
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="truncated") as caught:
        load_dataset(name, tmp_path)
    assert one_line(caught).startswith(str(path))
    assert capsys.readouterr().err == ""


def test_images_and_labels_swapped(tmp_path: Path, write_set: WriteSet) -> None:
    write_set(tmp_path)
    raw = tmp_path / "MNIST/raw"
    os.replace(raw / "train-labels-idx1-ubyte", raw / "train-images-idx3-ubyte")
    write_idx(raw / "train-labels-idx1-ubyte", np.zeros(24, np.uint8))
    with pytest.raises(DataError, match=r"holds labels \(magic 2049\), expected images \(magic 2051\)"):
        load_dataset("mnist", tmp_path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_unavailable(tmp_path: Path, name: str, urls_asked: list[str]) -> None:
    own = tmp_path / "own"
    with pytest.raises(DataUnavailable) as caught:
        load_dataset(name, own)
    message = one_line(caught)
    raw = LAYOUTS[name].raw
    assert message.startswith(
        f"Data set '{name}' not found: looked for {raw} in LEAN_MNIST_DATA (not set) and data-dir ({own}), "
        "download failed ("
    )
    assert "the tests have no network" in message
    assert f"holds {raw}/{LAYOUTS[name].files[0]}[.gz]" in message
    assert urls_asked
    assert list(tmp_path.iterdir()) == []


def test_download_can_be_forbidden(tmp_path: Path, urls_asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    expected = re.escape(
        f"in LEAN_MNIST_DATA ({tmp_path}) and data-dir ({tmp_path / 'own'}), download failed (not allowed)"
    )
    with pytest.raises(DataUnavailable, match=expected):
        load_dataset("mnist", tmp_path / "own", download=False)
    assert urls_asked == []


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_dataset("fashion-mnits", tmp_path)
    assert str(caught.value) == (
        "dataset: expected one of auto, mnist, fashion-mnist, kmnist, qmnist, emnist-digits, digits, "
        "found 'fashion-mnits' (did you mean 'fashion-mnist'?)"
    )


def test_an_error_while_digits_are_read_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*arguments: object, **options: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(np, "loadtxt", unreadable)
    with pytest.raises(OSError, match="scikit-learn's digits"):
        load_dataset("digits", "data")
