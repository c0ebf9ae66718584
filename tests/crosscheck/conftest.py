"""One thread, as these networks are too small to share among cores; and no verdict that hangs on the machine's load."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from lean_mnist.crosscheck.rules import gradcheck


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[Any]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def patient_gradcheck() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradcheck, "GRADCHECK_SECONDS", math.inf)
        yield
