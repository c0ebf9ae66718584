"""Every obligation can fail: with a fault planted in what it checks, it is found broken."""

import pytest

from lean_mnist.mutants.obligations import FAULTS, check_obligations
from lean_mnist.mutants.obligations.making import Fault
from lean_mnist.verification.model import Obligation, Truth
from lean_mnist.verification.statements import network
from tests.support.still_hold import STILL_HOLD, still_hold


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_found(fault: Fault, by_id: dict[str, Obligation], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "DEPTHS", (2,))  # one network of symbols is enough here
    with fault.planted():
        found = {name: by_id[name].check() for name in (*fault.fails, *still_hold(fault.name))}
    for name in fault.fails:
        assert not found[name].as_expected, f"{name} still {found[name].verdict}"
        assert not found[name].detail.startswith("TypeError"), "the fault itself cannot be called"
    for name in still_hold(fault.name):
        assert found[name].as_expected, f"{name}: {found[name].detail} {found[name].counterexample}"
    refuted = [outcome for outcome in found.values() if outcome.verdict is Truth.REFUTED]
    assert all(outcome.counterexample for outcome in refuted), "whoever refutes says with what"


def test_every_obligation_is_broken_by_a_fault(by_id: dict[str, Obligation]) -> None:
    assert STILL_HOLD.keys() <= {fault.name for fault in FAULTS}
    assert {name for fault in FAULTS for name in fault.fails} == set(by_id)
    part = check_obligations("gradient.relu", [fault for fault in FAULTS if "gradient.relu" not in fault.fails])
    assert (part.ok, part.unbroken) == (False, ("gradient.relu",))
    with pytest.raises(Exception, match=r"none is planted for gradient\.relu"):
        part.raise_if_failed()


def test_a_fault_that_an_obligation_misses_is_told() -> None:
    harmless = Fault("nothing", {}, ("loss.nonnegative",))
    found = check_obligations(faults=[harmless])
    assert not found.ok
    assert found.missed == {"nothing": ["loss.nonnegative"]}
    assert "nothing: MISSED by loss.nonnegative" in str(found)
    with pytest.raises(Exception, match=r"nothing \(by loss.nonnegative\)"):
        found.raise_if_failed()
    assert not check_obligations(faults=[]).ok
    assert found.as_plain()["faults"] == [{"fault": "nothing", "found_by": [], "missed_by": ["loss.nonnegative"]}]


@pytest.mark.parametrize("fault", FAULTS[:3], ids=lambda fault: fault.name)
def test_a_refutation_gives_numbers(fault: Fault, by_id: dict[str, Obligation]) -> None:
    with fault.planted():
        outcome = by_id[fault.fails[0]].check()
    assert outcome.verdict is Truth.REFUTED
    assert " instead of " in outcome.counterexample
