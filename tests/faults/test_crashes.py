"""Runs that are killed, torn, starved, raced, deleted: the fast part of what ``benchmarks.faults`` does for hours."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.faults.fast_part import PLANTED
from tests.faults.planted import Fault
from tests.support.faults.tracing import why_not
from tests.support.training_cases import REPOSITORY, surroundings

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "none")


def fast_part(*arguments: str) -> dict[str, list[dict[str, Any]]]:
    """Findings of each campaign, in a process of its own."""
    command = [sys.executable, "-m", "tests.faults.fast_part", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=surroundings(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return found


# In which campaign each planted fault must show itself, if the harness is worth anything.
SHOWN = {
    Fault.TORN: "torn",
    Fault.UNSYNCED: "power",
    Fault.DOUBLED: "syscalls",
    Fault.STUCK: "syscalls",
    Fault.LEFT: "syscalls",
    Fault.SILENT: "errors",
    Fault.TRACE: "errors",
    Fault.SHORT: "errors",
    Fault.DEAF: "races",
}


@pytest.mark.parametrize("fault", SHOWN, ids=lambda fault: fault.name.lower())
def test_a_planted_fault_is_found(fault: Fault) -> None:
    found = fast_part(fault.name, SHOWN[fault])
    assert any(finding["wrong"] for finding in found[SHOWN[fault]])


def test_nothing_is_found_where_nothing_is_planted() -> None:
    found = fast_part(Fault.NONE.name, *PLANTED)
    assert all(found.values())
    assert [finding for some in found.values() for finding in some if finding["wrong"]] == []
