"""The harness finds every fault that is planted in a small trainer, and none where none is."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.fast_part import PLANTED, fast_part
from tests.faults.planted import Fault
from tests.support.faults.tracing import why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "none")

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


def test_processes_share_the_trials_and_a_campaign_goes_on_where_its_file_ends(tmp_path: Path) -> None:
    program = """
import pathlib, sys
from tests.faults.planted import Fault, Planted
from tests.support.faults.campaign import campaign, syscalls
out = pathlib.Path(sys.argv[1])
for every in (40, 20):
    print(campaign(Planted(Fault.LEFT), lambda shop: syscalls(shop, every), out, jobs=2).good)
    print(len(set(out.read_text().splitlines())) == len(out.read_text().splitlines()))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "out.jsonl")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "True", "False", "True"], done.stderr
