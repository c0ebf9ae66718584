"""Small data sets written by the tests, real MNIST where it is present, and no network.

Every test runs without ``LEAN_MNIST_DATA`` and with ``urllib.request.urlopen`` failing, so nothing depends on the
machine's surroundings; the few that talk to a server of their own on the loopback interface ask for ``loopback``.
"""

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lean_mnist.data.datasets import Dataset, load_dataset
from lean_mnist.data.names import DATA_VARIABLE
from lean_mnist.data.official import LAYOUTS
from tests.support.idx_files import write_idx
from tests.support.shared_data import folder_with

WriteSet = Callable[..., tuple[np.ndarray, ...]]


@pytest.fixture(autouse=True)
def urls_asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No network and no ``LEAN_MNIST_DATA``; the list of addresses that were asked for in vain."""
    asked: list[str] = []

    def refuse(request: Any, *arguments: Any, **options: Any) -> None:
        asked.append(getattr(request, "full_url", request))
        raise urllib.error.URLError("the tests have no network")

    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return asked


_urlopen = urllib.request.urlopen


@pytest.fixture
def loopback(urls_asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is back, for a server of the test's own on 127.0.0.1, whatever proxies the machine has."""
    monkeypatch.setattr(urllib.request, "urlopen", _urlopen)
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "127.0.0.1")


def _write_set(
    root: Path, name: str = "mnist", *, train: int = 24, test: int = 12, packed: bool = False, seed: int = 0
) -> tuple[np.ndarray, ...]:
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    layout = LAYOUTS[name]
    raw = root / layout.raw
    raw.mkdir(parents=True, exist_ok=True)
    arrays = []
    for index, file in enumerate(layout.files):
        m = train if index < 2 else test
        if index % 2 == 0:
            array = random.integers(0, 256, (m, 28, 28)).astype(np.uint8)
        elif name == "qmnist":
            array = random.integers(-5, 9000, (m, 8)).astype(np.int32)
            array[:, 0] = random.integers(0, 10, m)
        else:
            array = random.integers(0, 10, m).astype(np.uint8)
        write_idx(raw / (f"{file}.gz" if packed else file), array)
        arrays.append(array)
    return tuple(arrays)


@pytest.fixture
def write_set() -> WriteSet:
    """``write_set(root, name, train=, test=, packed=, seed=)``: four small random IDX files; returns their arrays."""
    return _write_set


@pytest.fixture(scope="session")
def real_mnist() -> Iterator[Dataset]:
    """The real MNIST, from ``LEAN_MNIST_DATA`` or the project's shared folder; without it the test is skipped."""
    # Through data_dir, because this fixture outlives the tests, each of which has the variable unset.
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(DATA_VARIABLE, raising=False)
        yield load_dataset("mnist", folder_with("MNIST/raw"), download=False)
