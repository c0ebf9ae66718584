"""For every test: one thread a process, because the test runner already uses every core; and the planting of bugs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # also of the commands that tests start

import torch

torch.set_num_threads(1)


@pytest.fixture
def plant() -> Iterator[Any]:
    """``plant(target, replacement)`` replaces something inside the package until the test ends.

    See ``lean_mnist.mutants.planting``; its type is ``tests.support.planting.Plant``.
    """
    from lean_mnist.mutants import planting

    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(planting(*arguments, **options))
