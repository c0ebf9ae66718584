"""The whole table holds, says how far each statement reaches, and covers what it promises to cover."""

import json
import re

import pytest

from lean_mnist.errors import ConfigError
from lean_mnist.verification.model import Method, Obligation, Truth
from lean_mnist.verification.report import ObligationReport, select
from lean_mnist.verification.statements import GROUPS, VACUOUS

LINEAR_ALGEBRA = [
    *("vadd", "vsub", "smul", "matAdd", "matSub", "matSmul", "transpose", "vmul", "dot", "normSq", "outer"),
    *("matvec", "matmul", "batchMatvec", "batchAddVec"),
]
GRADIENTS = [
    *("identity", "relu", "sigmoid", "tanh", "matvec-vector", "matvec-matrix", "vadd", "smul", "chain-rule"),
    *("layer", "cross-entropy", "network", "central-difference"),
]
LOSS = [
    *("log-sum-exp", "nonnegative", "zero", "unbounded", "convex", "lipschitz"),
    *("gradient-sum", "gradient-bounded", "gradient-lipschitz"),
]
CONVERGENCE = ("sgd-strongly-convex", "gd-convex", "sgd-convex", "sgd-stationary", "batch-variance", "robbins-monro")
THEOREMS = ["linear-algebra.vadd-commutative", "linear-algebra.vadd-associative", "linear-algebra.smul-distributes"]


def test_everything_is_as_expected(full_report: ObligationReport) -> None:
    assert full_report.ok, [f"{o.obligation.id}: {o.detail} {o.counterexample}" for o in full_report.failed]
    full_report.raise_if_failed()


def test_the_lists_are_complete(by_id: dict[str, Obligation]) -> None:
    wanted = {
        *(f"linear-algebra.{name}" for name in LINEAR_ALGEBRA),
        *(f"gradient.{name}" for name in GRADIENTS),
        *(f"loss.{name}" for name in LOSS),
        *(f"convergence.{name}" for name in CONVERGENCE),
        *("types.wrong-shapes", "types.round-trip", "training.whole-numbers", "training.any-numbers"),
    }
    assert wanted <= set(by_id)
    assert len([name for name in by_id if name.startswith("linear-algebra.")]) == 15 + len(THEOREMS)


def test_what_is_proved_in_coq_alone_is_left_open_without_it(full_report: ObligationReport) -> None:
    """It counts neither as holding nor as failing."""
    assert [r.obligation.id for r in full_report.unchecked] == ["gradient.central-difference-order", *THEOREMS]
    assert not any(r.machine_checked or r.failed for r in full_report.unchecked)
    assert "4 proved in Coq alone and not checked" in full_report.text(4000)
    assert "Nothing was machine-checked: --coq" in full_report.text(4000)


def test_ids_are_unique_and_groups_have_titles(full_report: ObligationReport) -> None:
    ids = [outcome.obligation.id for outcome in full_report.results]
    assert len(ids) == len(set(ids))
    assert {outcome.obligation.group for outcome in full_report.results} == {group.group for group in GROUPS}
    assert all(re.fullmatch(r"[a-z-]+\.[A-Za-z-]+", name) for name in ids)


def test_every_obligation_says_what_it_needs_to_say(by_id: dict[str, Obligation]) -> None:
    for name, o in by_id.items():
        assert all((o.statement, o.source, o.scope, o.assumptions)), name


WORDS = {
    Method.COQ: "proved in Coq for ",
    Method.SYMBOLIC: "proved by SymPy for ",
    Method.EXACT: "checked exactly on ",
    Method.FLOATS: "checked in floating point on ",
    Method.DERIVED: "derived from its assumptions for ",
}


def test_what_is_said_of_a_method_is_no_more_than_was_done(by_id: dict[str, Obligation]) -> None:
    for name, o in by_id.items():
        if o.expected is Truth.REFUTED:
            assert o.established == "by counterexample", name
        else:
            assert o.established.startswith(WORDS[o.method]), name
            assert ("proved" in o.established) == (o.method in (Method.COQ, Method.SYMBOLIC)), name
        if o.method is Method.DERIVED:
            from lean_mnist.verification import assumptions

            assert assumptions.INDUCTION in o.assumptions, name


def test_what_is_proved_is_proved_for_all_sizes(by_id: dict[str, Obligation]) -> None:
    for o in by_id.values():
        if o.method in (Method.SYMBOLIC, Method.DERIVED, Method.COQ) and o.expected is Truth.HOLDS:
            assert re.search(r"for all |for every |for the infinite series|for sigmoid", o.established), o.id


def test_a_tried_case_count_is_in_the_scope(by_id: dict[str, Obligation]) -> None:
    for o in by_id.values():
        if o.method in (Method.EXACT, Method.FLOATS) and o.expected is Truth.HOLDS:
            assert re.search(r"\d", o.scope), o.id


def test_false_statements_are_refuted_with_their_counterexamples(full_report: ObligationReport) -> None:
    found = {o.obligation.id: o for o in full_report.results if o.obligation.group == "original"}
    assert all(o.verdict is Truth.REFUTED and o.counterexample for o in found.values())
    assert "(61.0, -29.0, -57.0), target 0: -7.1e-15" in found["original.loss-nonnegative"].counterexample
    assert "(2000.0, 0.0, 0.0)" in found["original.log-sum-exp-stable"].counterexample
    assert "inf" in found["original.log-sum-exp-stable"].counterexample
    assert "1.4612" in found["original.reported-loss"].counterexample
    assert "slope 0 from the left, 1 from the right" in found["original.covers-relu"].counterexample


def test_vacuous_statements_name_obligations_that_exist(by_id: dict[str, Obligation]) -> None:
    for vacuous in VACUOUS:
        assert vacuous.established_by
        assert set(vacuous.established_by) <= set(by_id), vacuous.source
    assert any("True" in vacuous.says for vacuous in VACUOUS)


def test_assumptions_are_listed_once_and_each_is_used(full_report: ObligationReport) -> None:
    from lean_mnist.verification import assumptions

    stated = {value for name, value in vars(assumptions).items() if isinstance(value, str) and name.isupper()}
    assert set(full_report.assumptions) == stated
    text = full_report.text(4000)
    for assumption in stated:
        assert text.count(assumption) == 1


def test_the_table_ends_with_refutations_vacuous_statements_assumptions_and_a_sum(
    full_report: ObligationReport,
) -> None:
    text = full_report.text(120)
    headings = [*(group.title for group in GROUPS), "Statements of the original that say less than their names"]
    headings.append("Assumptions, and how many obligations rest on each")
    places = [re.search(rf"^{re.escape(heading)}$", text, re.MULTILINE) for heading in headings]
    assert all(places)
    starts = [place.start() for place in places if place]
    assert starts == sorted(starts)
    assert " obligations hold (" in text
    assert "4 false statements of the original refuted" in text.replace("\n", " ")


@pytest.mark.parametrize("width", [60, 88, 100, 120, 200])
def test_no_line_is_wider_than_asked(full_report: ObligationReport, width: int) -> None:
    assert max(map(len, full_report.text(width).splitlines())) <= max(width, 88)


def test_the_document_is_one_json_value_with_the_schema_promised(full_report: ObligationReport) -> None:
    document = json.loads(full_report.to_json())
    assert set(document) == {"ok", "failed", "obligations", "vacuous", "assumptions", "coq", "seconds", "versions"}
    assert (document["ok"], document["failed"], document["coq"]) == (True, [], None)
    assert set(document["versions"]) == {"python", "torch", "sympy", "numpy"}
    for row in document["obligations"]:
        assert set(row) == {
            *("id", "group", "statement", "source", "how", "scope", "established", "assumptions", "expected"),
            *("verdict", "as_expected", "detail", "counterexample", "seconds", "machine_checked", "theorems"),
        }
        assert row["seconds"] >= 0
        assert (row["verdict"] == "refuted") == (row["counterexample"] is not None)
    assert all(entry["obligations"] > 0 and entry["how"] == "assumed" for entry in document["assumptions"])
    assert {e["verdict"] for v in document["vacuous"] for e in v["established_by"]} == {"holds"}


def test_selecting(by_id: dict[str, Obligation]) -> None:
    everything = list(by_id.values())
    assert [o.id for o in select(everything, "loss.convex")] == ["loss.convex"]
    assert {o.group for o in select(everything, "linear-algebra")} == {"linear-algebra"}
    assert {o.id for o in select(everything, "*.gradcheck")} == {"tensors.gradcheck"}
    assert len(select(everything, "*")) == len(everything)
    for wrong, near in (("los", "'loss'"), ("loss.convx", "'loss.convex'"), ("", None), ("qqqq", None)):
        with pytest.raises(ConfigError) as caught:
            select(everything, wrong)
        message = str(caught.value)
        assert message.startswith("--only: expected an id, a pattern such as 'loss.*', or one of gradient, ")
        assert "\n" not in message
        assert f"found {wrong!r}" in message
        assert (f"did you mean {near}" in message) == (near is not None)
