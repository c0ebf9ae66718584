"""No ``LEAN_MNIST_DATA`` and no network; a run that every test may read; real MNIST where it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist.data.names import DATA_VARIABLE
from lean_mnist.data.normalization import Normalization
from lean_mnist.nn.quantized import network_of
from lean_mnist.training.checkpoints import Checkpoint
from lean_mnist.training.config import Config
from tests.support.shared_data import folder_with
from tests.support.training_cases import FinishedRun, digits_run

MakeCheckpoint = Callable[..., Checkpoint]


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return digits_run(tmp_path_factory.mktemp("exchange"), epochs=3)


@pytest.fixture
def in_digits(digits: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> FinishedRun:
    """The folder of that run is the present one."""
    monkeypatch.chdir(digits.root)
    return digits


@pytest.fixture
def make() -> MakeCheckpoint:
    """A checkpoint of 8 × 6 images and five classes, as it would be loaded."""

    def checkpoint(normalization: Normalization, dtype: torch.dtype = torch.float32, **form: Any) -> Checkpoint:
        model = network_of({"sizes": (48, 7, 6, 5), **form}, seed=3, dtype=dtype)
        with torch.no_grad():
            for _, bias in model.parameter_pairs():
                if bias is not None:
                    bias.copy_(torch.linspace(-0.5, 0.5, len(bias)))
        data = {"name": "mine", "image_shape": [8, 6], "maximum": 255, "class_names": list("abcde")}
        return Checkpoint(model, normalization, Config(), {}, {}, data)

    return checkpoint


@pytest.fixture(scope="session")
def real_mnist_folder() -> Path:
    return folder_with("MNIST/raw")
