"""Runs that are killed, torn, starved, raced, deleted: the fast part of what ``benchmarks.faults`` does for hours."""

from typing import Any

import pytest

from tests.faults.fast_part import OURS, fast_part
from tests.support.faults.tracing import why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "none")


@pytest.fixture(scope="module")
def ours() -> dict[str, list[dict[str, Any]]]:
    """Findings about this package's trainer."""
    return fast_part()


@pytest.mark.parametrize("campaign", OURS)
def test_a_run_is_the_uninterrupted_one_after_every_fault(ours: dict[str, list[dict[str, Any]]], campaign: str) -> None:
    assert ours[campaign]
    assert [(f["trial"], f["told"], f["wrong"]) for f in ours[campaign] if f["wrong"]] == []
