"""Comparison with text in a file, as it should be to the letter."""

import os
from pathlib import Path

WRITE = "WRITE_GOLDEN"  # set in the environment, what was found is written instead, to be looked at and committed


def assert_golden(path: Path, found: str) -> None:
    """Assert that ``found`` is the content of the file at ``path``."""
    if os.environ.get(WRITE):
        path.write_text(found, encoding="utf-8")
    assert path.exists(), f"no {path}; with {WRITE}=1 it is written"
    expected = path.read_text(encoding="utf-8")
    assert found == expected, f"not what {path.name} says; where it should be, {WRITE}=1 writes it anew"
