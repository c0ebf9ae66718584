"""Every kind of check can fail: with a fault planted in the code, the obligations it breaks are found broken."""

import pytest

from lean_mnist.verification.model import Obligation, Truth
from lean_mnist.verification.statements import network
from tests.support.obligations_faults import FAULTS, Fault


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_found(fault: Fault, by_id: dict[str, Obligation], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "DEPTHS", (2,))  # one network of symbols is enough here
    with fault.planted():
        found = {name: by_id[name].check() for name in (*fault.fails, *fault.holds)}
    for name in fault.fails:
        assert not found[name].as_expected, f"{name} still {found[name].verdict}"
        assert not found[name].detail.startswith("TypeError"), "the fault itself cannot be called"
    for name in fault.holds:
        assert found[name].as_expected, f"{name}: {found[name].detail} {found[name].counterexample}"
    refuted = [outcome for outcome in found.values() if outcome.verdict is Truth.REFUTED]
    assert all(outcome.counterexample for outcome in refuted), "whoever refutes says with what"


def test_the_faults_reach_every_group_and_every_method(by_id: dict[str, Obligation]) -> None:
    failing = {name for fault in FAULTS for name in fault.fails}
    groups = {obligation.group for obligation in by_id.values()}
    assert {by_id[name].group for name in failing} == groups
    assert {by_id[name].method for name in failing} == {obligation.method for obligation in by_id.values()}


@pytest.mark.parametrize("fault", FAULTS[:3], ids=lambda fault: fault.name)
def test_a_refutation_gives_numbers(fault: Fault, by_id: dict[str, Obligation]) -> None:
    with fault.planted():
        outcome = by_id[fault.fails[0]].check()
    assert outcome.verdict is Truth.REFUTED
    assert " instead of " in outcome.counterexample
