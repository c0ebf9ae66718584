"""The whole table holds, says how far each statement reaches, and covers what it promises to cover."""

import json
import re

import pytest

from lean_mnist.coq import PROOFS
from lean_mnist.errors import ConfigError
from lean_mnist.nn.engine.library import CannotCompile
from lean_mnist.verification import assumptions
from lean_mnist.verification.coq import CoqReport
from lean_mnist.verification.model import Method, Obligation, Theorem, Truth
from lean_mnist.verification.report import ObligationReport, select
from lean_mnist.verification.statements import GROUPS, VACUOUS, training

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
LAWS = ("vadd-commutative", "vadd-associative", "smul-distributes")


def test_everything_is_as_expected(full_report: ObligationReport) -> None:
    assert full_report.ok, [f"{o.obligation.id}: {o.detail} {o.counterexample}" for o in full_report.failed]
    full_report.raise_if_failed()


def test_the_lists_are_complete(by_id: dict[str, Obligation]) -> None:
    wanted = {
        *(f"linear-algebra.{name}" for name in (*LINEAR_ALGEBRA, *LAWS)),
        *(f"gradient.{name}" for name in GRADIENTS),
        *(f"loss.{name}" for name in LOSS),
        *(f"convergence.{name}" for name in CONVERGENCE),
        *("types.wrong-shapes", "types.round-trip", "training.whole-numbers", "training.any-numbers"),
    }
    assert wanted <= set(by_id)
    assert len([name for name in by_id if name.startswith("linear-algebra.")]) == 15 + len(LAWS)


def test_without_coq_nothing_is_called_machine_checked(full_report: ObligationReport) -> None:
    assert not any(r.machine_checked or "Coq" in r.established for r in full_report.results)
    assert "Nothing was machine-checked: --coq" in full_report.text(4000)


def test_with_its_theorem_a_derived_row_rests_no_longer_on_what_that_proves(full_report: ObligationReport) -> None:
    derived = [r for r in full_report.results if r.obligation.method is Method.DERIVED]
    assert len(derived) == 6
    for result in derived:
        assert {assumptions.INDUCTION, assumptions.CALCULUS} & set(result.assumptions)
        proved = result.with_theorems((Theorem("a.B.c"),))
        assert proved.established == f"derived, and proved in Coq, {result.obligation.scope}"
        assert not set(proved.assumptions) & set(assumptions.PROVED)
        still = set(result.assumptions) - set(assumptions.PROVED)
        assert set(proved.assumptions) == {assumptions.COQ, *still}
        faulty = result.with_theorems((Theorem("a.B.c", fault="it is not there"),))
        assert (faulty.verdict, faulty.assumptions) == (Truth.ERROR, result.assumptions)
    noisy = next(r for r in derived if r.obligation.id == "convergence.sgd-convex").with_theorems((Theorem("a.B.c"),))
    assert noisy.assumptions == (assumptions.COQ, assumptions.STEP, assumptions.NOISE)


def test_a_theorem_about_numbers_is_not_called_one_about_the_code(full_report: ObligationReport) -> None:
    chosen = {"convergence.running-mean": "Coq, of the mathematics alone: a.B.c", "loss.convex": "Coq: a.B.c"}
    results = [r.with_theorems((Theorem("a.B.c"),)) for r in full_report.results if r.obligation.id in chosen]
    text = ObligationReport(tuple(results), (), 0.0, CoqReport("8.16", 1, 0.0, {})).text(4000)
    assert all(f"✓ {line}\n" in text for line in chosen.values())
    assert "2 of 2 obligations, of 1 of them the mathematics alone, by 1 theorems" in text


def test_nothing_that_holds_by_definition_is_called_machine_checked(by_id: dict[str, Obligation]) -> None:
    named = {line.split()[0] for line in (PROOFS / "obligations.txt").read_text().splitlines()}
    apart = ("layer.forward-dimension", "layer.batch-dimension", "convergence.sgd-stationary-enumerated")
    assert not named & set(apart)
    assert set(apart) <= set(by_id)


def test_a_row_is_not_wider_than_its_theorem(by_id: dict[str, Obligation]) -> None:
    order = by_id["gradient.central-difference-order"].scope
    assert "in direction 1, and for all logits of one example of cross-entropy, along any direction" in order
    assert "the theorems are about one number and direction 1" in by_id["gradient.central-difference"].scope


def test_ids_are_unique_and_groups_have_titles(full_report: ObligationReport) -> None:
    ids = [outcome.obligation.id for outcome in full_report.results]
    assert len(ids) == len(set(ids))
    assert {outcome.obligation.group for outcome in full_report.results} == {group.group for group in GROUPS}
    assert all(re.fullmatch(r"[a-z-]+\.[A-Za-z-]+", name) for name in ids)


def test_every_obligation_says_what_it_needs_to_say(by_id: dict[str, Obligation]) -> None:
    for name, o in by_id.items():
        assert all((o.statement, o.source, o.scope, o.assumptions)), name


WORDS = {
    Method.SYMBOLIC: "proved by SymPy for ",
    Method.EXACT: "checked exactly on ",
    Method.FLOATS: "checked in floating point on ",
    Method.DERIVED: "derived from its assumptions for ",
}


def test_what_is_said_of_a_method_is_no_more_than_was_done(full_report: ObligationReport) -> None:
    for result in full_report.results:
        o = result.obligation
        if o.expected is Truth.REFUTED:
            assert result.established == "by counterexample", o.id
        else:
            assert result.established.startswith(WORDS[o.method]), o.id
            assert ("proved" in result.established) == (o.method is Method.SYMBOLIC), o.id


def test_what_is_proved_is_proved_for_all_sizes(by_id: dict[str, Obligation]) -> None:
    for o in by_id.values():
        if o.method in (Method.SYMBOLIC, Method.DERIVED) and o.expected is Truth.HOLDS:
            assert re.match(r"for all |for every |for the infinite series|for sigmoid", o.scope), o.id


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
    stated = {value for name, value in vars(assumptions).items() if isinstance(value, str) and name[0].isupper()}
    stated.remove(assumptions.COQ)  # with --coq alone
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


def test_steps_that_no_compiler_was_there_for_are_not_among_those_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*arguments: object, **options: object) -> None:
        raise CannotCompile("there is no C compiler")

    monkeypatch.setattr(training, "ANY", training.ANY[:1])
    compared = training.any_numbers()
    monkeypatch.setattr(training, "NativeEngine", nobody)
    assert training.any_numbers().endswith("norm; none of them in C: there is no C compiler")
    assert compared.endswith("of the gradient's norm")


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
