"""The one class that all findings of a report together point to."""

from __future__ import annotations

from collections.abc import Sequence

from lean_mnist.crosscheck.diagnosis.kinds import Kind
from lean_mnist.crosscheck.report import Finding, Verdict
from lean_mnist.crosscheck.rules import linearity_and_layout as contracts
from lean_mnist.crosscheck.rules import purity_and_determinism as usage

# A rule that changes one thing only (the layout, a second call, the size of the upstream gradient) says more about the
# cause than the values of a gradient that happens to be wrong in that situation: its name for it, and which classes its
# own diagnosis may give instead. One that compares two results of the function with each other knows neither for right.
_TELLING: tuple[tuple[str, Kind, tuple[Kind, ...]], ...] = (
    (contracts.UPSTREAM_LAYOUT, Kind.LAYOUT, ()),
    (contracts.INPUT_LAYOUT, Kind.LAYOUT, ()),
    (usage.MUTATION, Kind.MUTATION, ()),
    (usage.REPLAY, Kind.NONDETERMINISM, (Kind.STALE_VALUE,)),
)
_UPSTREAM_IGNORED = Kind.UPSTREAM_IGNORED


def likely_kind(findings: Sequence[Finding]) -> Kind | None:
    """The likely class of the fault, ``None`` where nothing failed."""
    failed = [finding for finding in findings if finding.verdict is Verdict.FAILED]
    kinds = [finding.diagnosis.kind for finding in failed if finding.diagnosis is not None]
    if Kind.NAN in kinds:
        return Kind.NAN
    for rule, kind, others in _TELLING:
        for finding in failed:
            if finding.rule == rule:
                own = None if finding.diagnosis is None else finding.diagnosis.kind
                return own if own in others else kind
    if _UPSTREAM_IGNORED in kinds:
        return _UPSTREAM_IGNORED
    return kinds[0] if kinds else Kind.WRONG_VALUES if failed else None
