"""The one class that all findings of a report together point to."""

from __future__ import annotations

from collections.abc import Sequence

from lean_mnist.crosscheck.functions import contracts, usage
from lean_mnist.crosscheck.functions.verdicts import Finding, Verdict

# A rule that changes one thing only (the layout, a second call, the size of the upstream gradient) says more about the
# cause than the values of a gradient that happens to be wrong in that situation: its name for it, and which classes its
# own diagnosis may give instead. One that compares two results of the function with each other knows neither for right.
_TELLING: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (contracts.UPSTREAM_LAYOUT, "layout", ()),
    (contracts.INPUT_LAYOUT, "layout", ()),
    (usage.MUTATION, "mutation", ()),
    (usage.REPLAY, "nondeterminism", ("stale value",)),
)
_UPSTREAM_IGNORED = "upstream ignored"


def likely_kind(findings: Sequence[Finding]) -> str:
    """The likely class of the fault, a member of ``KINDS``; empty where nothing failed."""
    failed = [finding for finding in findings if finding.verdict is Verdict.FAILED]
    kinds = [finding.diagnosis.kind for finding in failed if finding.diagnosis is not None]
    if "NaN" in kinds:
        return "NaN"
    for rule, kind, others in _TELLING:
        for finding in failed:
            if finding.rule == rule:
                own = "" if finding.diagnosis is None else finding.diagnosis.kind
                return own if own in others else kind
    if _UPSTREAM_IGNORED in kinds:
        return _UPSTREAM_IGNORED
    return kinds[0] if kinds else "wrong values" if failed else ""
