"""Where the real MNIST is, for the tests of certificates."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_GIVEN = os.environ.get("LEAN_MNIST_DATA")
_SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def mnist_folder() -> str:
    """The folder of the real MNIST, ``LEAN_MNIST_DATA`` or the project's shared one; without it the test is skipped."""
    for root in (_GIVEN, str(_SHARED)):
        if root and Path(root, "MNIST", "raw").is_dir():
            return root
    pytest.skip("real MNIST is neither in LEAN_MNIST_DATA nor in ../shared/data")
