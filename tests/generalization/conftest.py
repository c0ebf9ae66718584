"""Real data, where they are present."""

from pathlib import Path

import pytest

from lean_mnist.data.datasets import Dataset, load_dataset
from tests.support.import_cases import B2
from tests.support.shared_data import folder_with


@pytest.fixture(scope="session")
def mlcert() -> Path:
    """The folder of MLCERT's networks."""
    return folder_with(f"mlcert/{B2}") / "mlcert"


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    """Real MNIST."""
    return load_dataset("mnist", folder_with("MNIST/raw"), download=False)
