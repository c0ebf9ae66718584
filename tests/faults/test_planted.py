"""The harness finds every fault that is planted in a small trainer, and none where none is."""

from __future__ import annotations

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
