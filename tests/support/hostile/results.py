"""Outcomes of the attacks of a group, made once by a process of their own."""

from __future__ import annotations

import functools
import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.support.hostile.attack import Hostile
from tests.support.training_cases import REPOSITORY


def entries(group: str) -> Sequence[Hostile]:
    """The attacks of a group."""
    found: Sequence[Hostile] = importlib.import_module(f"tests.support.hostile.{group}").HOSTILE
    return found


@functools.cache
def results(group: str) -> dict[str, dict[str, Any]]:
    """Outcome of each attack of the group, by its name."""
    command = [sys.executable, "-m", "tests.support.hostile.attack", group]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    return {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}


def named(*groups: str) -> list[tuple[str, str]]:
    """Group and name of every attack, for ``parametrize``."""
    return [(group, hostile.name) for group in groups for hostile in entries(group)]
