"""The self-test: what it catches and where, and that it says so when something escapes or is refused wrongly."""

import functools
import json
import re
from typing import Any

import pytest
import torch

from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.errors import GradientMismatch
from lean_mnist.mutants import mutant_named, planted, run_selftest, selftest
from lean_mnist.mutants import training as checked_training
from lean_mnist.mutants.mutant import DENSE, Fault, Group, Mutant
from lean_mnist.mutants.planting import Plant
from lean_mnist.mutants.report import Fate, SelftestReport
from lean_mnist.mutants.selftest import try_mutant
from lean_mnist.mutants.situations import CONDITIONS, NetworkSpec, cases
from lean_mnist.mutants.training import AUDIT_EVERY, STEPS, CheckedRun, CheckFailure, StepChecks, train_and_check
from lean_mnist.nn.step import compute_gradients

NETWORKS = list(dict.fromkeys((c.network, c.dtype) for c in CONDITIONS.values() if c.training))
# One or two of each group and of each site.
SUBSET = [
    mutant_named(name)
    for name in (
        "weight-scale-1.0001", "bias-wrong-axis", "mask-at-zero", "mask-saturates", "smoothing-ignored",
        "mean-nominal-batch", "layers-swapped", "frozen-bias-takes-weight", "weight-race-every-50", "node-last-input",
        "node-upstream-mean", "memory-read-as-packed", "first-batch-only", "mask-without-bias", "converged-skipped",
    )
]  # fmt: skip


@functools.cache
def control(network: NetworkSpec, dtype: torch.dtype) -> CheckedRun:
    """The run with nothing planted, once for all tests."""
    return train_and_check(None, network, dtype=dtype)


def with_known_controls(
    plant: Plant | None, network: NetworkSpec, *, dtype: torch.dtype, seed: int, steps: int
) -> CheckedRun:
    """``train_and_check``, which for a control gives the run that other tests look at, too."""
    assert (seed, steps) == (0, STEPS)
    return control(network, dtype) if plant is None else train_and_check(plant, network, dtype=dtype)


@pytest.fixture(scope="module")
def report() -> SelftestReport:
    calls: list[tuple[int, int, str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selftest, "train_and_check", with_known_controls)
        found = run_selftest(SUBSET, progress=lambda done, total, following: calls.append((done, total, following)))
    assert [call[0] for call in calls] == list(range(len(SUBSET) + 1))
    assert calls[-1] == (len(SUBSET), len(SUBSET), "")
    return found


def dense_mutant(fault: Fault) -> Mutant:
    """A mutant of the dense layer's backward that is not in the corpus."""
    group = Group("test")
    group(DENSE, "some-fault", Kind.WRONG_VALUES, "something is wrong")(fault)
    return group.mutants[0]


@pytest.fixture
def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick control, where a test is about something else."""
    monkeypatch.setattr(selftest, "cases", lambda: [case for case in cases() if case.name in ("dense", "softmax")])


@pytest.mark.parametrize(("network", "dtype"), NETWORKS, ids=str)
def test_with_nothing_planted_no_check_fails_until_the_digits_are_learnt(
    network: NetworkSpec, dtype: torch.dtype
) -> None:
    run = control(network, dtype)
    assert run.failure is None, run.failure
    assert run.steps == STEPS
    if network.activation == "relu" and not network.label_smoothing and not network.logit_penalty:
        assert run.loss < 0.05


def test_a_quick_subset_is_caught_where_it_first_shows(report: SelftestReport) -> None:
    assert report.ok, str(report)
    assert report.score == 1
    assert report.controls > STEPS
    assert all(outcome.message for outcome in report.results)
    report.raise_if_failed()


def test_deterministic_mutants_fall_at_the_first_step_and_others_at_the_first_that_shows_them(
    report: SelftestReport,
) -> None:
    found = {outcome.mutant.name: outcome for outcome in report.results}
    assert found["weight-scale-1.0001"].caught_at == 1
    assert found["mask-without-bias"].caught_at == found["mask-without-bias"].shown_at != 1
    for name in ("bias-wrong-axis", "mask-at-zero", "mask-saturates", "first-batch-only", "converged-skipped"):
        outcome = found[name]
        assert outcome.caught_at == outcome.shown_at not in (None, 1), name
        assert outcome.checks[0] == "screen"
    assert found["frozen-bias-takes-weight"].checks == ("check_function",)


def test_each_is_given_its_true_class_where_it_is_first_caught(report: SelftestReport) -> None:
    found = {outcome.mutant.name: outcome for outcome in report.results}
    missed = {name: (o.mutant.kinds, o.kind) for name, o in found.items() if not o.named_rightly}
    assert set(missed) <= {"node-upstream-mean"}, missed
    assert report.diagnosed == (len(SUBSET) - len(missed), len(SUBSET))
    assert f"diagnosed rightly at the first catch: {len(SUBSET) - len(missed)} of {len(SUBSET)} (" in str(report)
    values = json.loads(report.to_json())
    assert values["diagnosed"] == {"right": len(SUBSET) - len(missed), "of": len(SUBSET)}
    assert {m["name"]: m["diagnosed_as"] for m in values["mutants"]} == {name: o.called for name, o in found.items()}


def test_a_wrong_name_is_counted_as_wrong(monkeypatch: pytest.MonkeyPatch, few_cases: None) -> None:
    check = StepChecks.check

    def misnaming(*arguments: Any) -> CheckFailure | None:
        failure = check(*arguments)
        return failure and failure._replace(kind=Kind.TRANSPOSE)

    monkeypatch.setattr(StepChecks, "check", misnaming)
    found = run_selftest([mutant_named("weight-sign")], steps=1)
    assert (found.ok, found.diagnosed) == (True, (0, 1))
    assert re.search(r"weight-sign +sign +transpose", str(found))


def test_no_mutant_that_a_training_step_shows_waits_for_an_audit() -> None:
    """The screen alone, at the step itself: a conditional fault that shows between two audits."""
    mutant = mutant_named("mask-at-zero")
    with planted(mutant) as plant:
        run = train_and_check(plant, CONDITIONS[mutant.condition].network, stop="screen")
    assert run.first == {"screen": run.shown_at}
    assert run.shown_at is not None
    assert run.shown_at % AUDIT_EVERY != 0


def test_the_report_is_a_table_for_people_and_plain_values_for_programs(report: SelftestReport) -> None:
    text = str(report)
    assert all(mutant.name in text for mutant in SUBSET)
    assert text.splitlines()[-1].startswith("passed: 15 of 15 planted bugs caught")
    values = json.loads(report.to_json())
    assert values["ok"] is True
    assert len(values["mutants"]) == len(SUBSET)
    assert report.by_group()["products"] == (2, 2)


def test_a_mutant_that_no_check_sees_is_reported_as_escaped(monkeypatch: pytest.MonkeyPatch, few_cases: None) -> None:
    monkeypatch.setattr(StepChecks, "check", lambda *arguments: None)
    found = run_selftest([mutant_named("weight-sign")], steps=3)
    assert not found.ok
    assert found.results[0].fate is Fate.ESCAPED
    assert found.results[0].shown_at == 1
    assert "escaped. the gradients are wrong from step 1 on" in str(found)
    with pytest.raises(GradientMismatch, match="weight-sign"):
        found.raise_if_failed()


def test_a_mutant_that_is_caught_only_later_is_reported_as_late(
    monkeypatch: pytest.MonkeyPatch, few_cases: None
) -> None:
    check = StepChecks.check
    monkeypatch.setattr(
        StepChecks, "check", lambda self, number, *rest: check(self, number, *rest) if number >= 3 else None
    )
    found = run_selftest([mutant_named("weight-sign")], steps=5)
    assert not found.ok
    assert found.results[0].fate is Fate.LATE
    assert found.results[0].where == "step 3, wrong from step 1"


def test_a_mutant_that_changes_nothing_fails_the_selftest_of_our_own(few_cases: None) -> None:
    found = run_selftest([dense_mutant(lambda original, *arguments: original(*arguments))], steps=3)
    assert found.results[0].fate is Fate.NOT_SHOWN
    assert not found.ok


def test_a_backward_that_raises_is_caught() -> None:
    def raises(original: Any, *arguments: Any) -> None:
        raise RuntimeError("no such kernel")

    outcome = try_mutant(dense_mutant(raises), steps=2)
    assert outcome.caught
    assert "no such kernel" in outcome.message


def test_a_false_alarm_fails_the_selftest_whatever_is_caught(monkeypatch: pytest.MonkeyPatch, few_cases: None) -> None:
    monkeypatch.setattr(selftest, "refused", lambda *arguments: CheckFailure((), "refused"))
    found = run_selftest([mutant_named("weight-sign")], steps=2)
    assert not found.ok
    assert found.score == 1
    assert "false alarm: dense: refused" in str(found)


def test_the_run_is_the_same_twice() -> None:
    runs = [train_and_check(None, NetworkSpec(sizes=(64, 16, 10)), steps=20) for _ in range(2)]
    assert runs[0] == runs[1]


def test_the_gradients_that_are_checked_are_those_of_the_whole_step() -> None:
    """An accumulated step's gradients are those of all its examples as one batch."""
    model = NetworkSpec(sizes=(64, 16, 10)).build(0, torch.float64)
    batches = list(
        checked_training._batches(NetworkSpec(sizes=(64, 16, 10)), 0, checked_training.ACCUMULATED, torch.float64)
    )[-1]
    assert len(batches) == 2
    whole = [(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))]
    parts, one = (compute_gradients(model, step).gradients for step in (batches, whole))
    torch.testing.assert_close(parts, one)
