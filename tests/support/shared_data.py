"""Data that tests do not bring along, such as real MNIST and what MLCERT published."""

import os
from pathlib import Path

import pytest

_GIVEN = os.environ.get("LEAN_MNIST_DATA")  # now, because many a test unsets it
_SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def folder_with(inside: str) -> Path:
    """The folder, ``LEAN_MNIST_DATA`` or the project's shared one, that has this; without it the test is skipped."""
    for root in map(Path, filter(None, (_GIVEN, str(_SHARED)))):
        if (root / inside).exists():
            return root
    pytest.skip(f"{inside} is neither in LEAN_MNIST_DATA nor in ../shared/data")
