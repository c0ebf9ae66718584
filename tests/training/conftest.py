"""One thread, no network, no ``LEAN_MNIST_DATA``; a few runs on ``digits`` that many tests look at; real MNIST."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lean_mnist.data.names import DATA_VARIABLE
from lean_mnist.data.official import DownloadError
from tests.support.idx_files import write_idx
from tests.support.shared_data import folder_with
from tests.support.training_cases import FinishedRun, digits_run, tree

# The data sets are small, and threads that compete for cores with other programs stall.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ``LEAN_MNIST_DATA`` and no network, so that nothing depends on the machine."""

    def refuse(urls: list[str], seconds: float = 0.0) -> None:
        raise DownloadError("the tests have no network")

    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setattr("lean_mnist.data.official.probe", refuse)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the present one, so that ``runs`` and ``checkpoints`` lie in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run with every option at its default, but on ``digits`` and with the test split tracked. Not to be changed."""
    return digits_run(tmp_path_factory.mktemp("default"), epochs=30, track_test=True)


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedRun]:
    """Two epochs on ``digits``. Not to be changed, and a test that does is found out."""
    finished = digits_run(tmp_path_factory.mktemp("short"), epochs=2)
    before = tree(finished.root)
    yield finished
    assert tree(finished.root) == before, "a test wrote into the run that tests share"


@pytest.fixture
def tiny_mnist() -> Callable[..., Path]:
    """``tiny_mnist(folder, seed=0)``: random images in the files of MNIST, 60 training and 20 test examples."""

    def write(folder: Path, seed: int = 0) -> Path:
        print(f"seed {seed}")
        random = np.random.default_rng(seed)
        raw = folder / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for kind, m in (("train", 60), ("t10k", 20)):
            write_idx(raw / f"{kind}-images-idx3-ubyte", random.integers(0, 256, (m, 28, 28)).astype(np.uint8))
            write_idx(raw / f"{kind}-labels-idx1-ubyte", (np.arange(m) % 10).astype(np.uint8))
        return folder

    return write


@pytest.fixture(scope="session")
def real_mnist_folder() -> str:
    """The folder of the real MNIST, ``LEAN_MNIST_DATA`` or the project's shared one; without it the test is skipped."""
    return str(folder_with("MNIST/raw"))
