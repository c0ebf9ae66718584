"""Hostile checkpoints and bundles: refused in one line, within bounds, and nothing in them run or written."""

import pytest

from tests.support.hostile.results import named, results


@pytest.mark.parametrize(("group", "name"), named("archives", "fields", "bundles"))
def test_a_hostile_checkpoint_or_bundle_does_nothing(group: str, name: str) -> None:
    assert results(group)[name]["faults"] == []
