"""Theorems beside obligations: what Coq has checked is named, and whatever is wrong with the proofs is a failure."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lean_mnist.coq import PROOFS, own_proofs
from lean_mnist.errors import ConfigError
from lean_mnist.verification import coq, report
from lean_mnist.verification.coq import CoqReport, check_theorems
from lean_mnist.verification.model import Method
from tests.support.obligations_cases import an_obligation, holds
from tests.support.training_cases import Result

needs_coq = pytest.mark.skipif(not shutil.which("coqc"), reason="needs coqc, of the Debian package coq")

THEORY = """
Require Import Reals Lra.
Theorem sum : 1 + 1 = 2. Proof. reflexivity. Qed.
Theorem squares : forall x : R, (0 <= x * x)%R. Proof. intros x. apply Rle_0_sqr. Qed.
Definition claimed : Prop := 1 + 1 = 3.
Definition number := 5.
"""
AXIOMS = "ClassicalDedekindReals.sig_forall_dec\nClassicalDedekindReals.sig_not_dec\n" + (
    "FunctionalExtensionality.functional_extensionality_dep  # equal values\n"
)
AXIOM = "Axiom wrong : 0 = 1.\n"
IDS = ("loss.sum", "loss.squares")


def quiet(done: int, total: int, following: str) -> None:
    assert done < total


def house(folder: Path, theory: str = THEORY, named: str = "loss.sum sums.Sums.sum\n", axioms: str = AXIOMS) -> Path:
    """A house of proofs that holds one theory."""
    (folder / "sums").mkdir(parents=True)
    (folder / "sums" / "Sums.v").write_text(theory)
    (folder / "_CoqProject").write_text("-R . LeanMnist\n")
    (folder / "obligations.txt").write_text(named)
    (folder / "assumptions.txt").write_text("# of the real numbers\n" + axioms)
    return folder


def asked(proofs: Path) -> CoqReport:
    return check_theorems(IDS, IDS, quiet, proofs)


@needs_coq
def test_theorems_and_the_axioms_beneath_each_are_named(tmp_path: Path) -> None:
    proofs = house(tmp_path, named="loss.sum sums.Sums.sum\nloss.squares LeanMnist.sums.Sums.squares  # x²\n")
    before = sorted(proofs.rglob("*"))
    found = asked(proofs)
    assert found.fault == ""
    assert re.fullmatch(r"8\.\d+\.\d+|9\.\d+.*", found.version)
    (one,), (squares,) = found.theorems["loss.sum"], found.theorems["loss.squares"]
    assert (one.name, one.axioms, one.fault) == ("sums.Sums.sum", (), "")
    assert "ClassicalDedekindReals.sig_forall_dec" in squares.axioms
    assert found.axioms == sorted(squares.axioms)
    assert sorted(proofs.rglob("*")) == before, "nothing was written beside the proofs"


@needs_coq
@pytest.mark.parametrize(
    ("theory", "name", "fault"),
    [
        (THEORY, "missing", "Coq says: The reference LeanMnist.sums.Sums.missing was not found"),
        (THEORY, "claimed", "Coq says: The term"),
        (THEORY, "number", "Coq says: The term"),
        (AXIOM + "Theorem sum : 0 = 1. Proof. exact wrong. Qed.\n", "sum", "it rests on Sums.wrong, which"),
        (AXIOM, "wrong", "it rests on Sums.wrong, which assumptions.txt does not name"),
        ("Lemma wrong : 0 = 1. Admitted.\nTheorem sum : 0 = 1. Proof. exact wrong. Qed.\n", "sum",
         "it rests on Sums.wrong, which assumptions.txt does not name"),
    ],
)  # fmt: skip
def test_a_theorem_that_is_none_is_a_fault_of_its_obligation_alone(
    tmp_path: Path, theory: str, name: str, fault: str
) -> None:
    extra = "Theorem good : 1 = 1. Proof. reflexivity. Qed.\n"
    proofs = house(tmp_path, theory + extra, f"loss.sum sums.Sums.{name}\nloss.squares sums.Sums.good\n")
    found = asked(proofs)
    assert found.fault == ""
    assert found.theorems["loss.sum"][0].fault.startswith(fault)
    assert found.theorems["loss.squares"][0].fault == ""


@needs_coq
def test_an_axiom_of_ours_under_an_allowed_name_is_a_fault(tmp_path: Path) -> None:
    theory = AXIOM + "Theorem sum : 0 = 1. Proof. exact wrong. Qed.\n"
    found = asked(house(tmp_path, theory, axioms="Sums.wrong\n"))
    assert found.theorems["loss.sum"][0].fault == "it rests on Sums.wrong, which assumptions.txt does not name"


@needs_coq
def test_settings_of_the_user_do_not_reach_coq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEFLAGS", "n")  # make would only print what it is to do
    assert asked(house(tmp_path)).fault == ""


@needs_coq
def test_a_loop_that_is_not_guarded_is_no_proof(tmp_path: Path) -> None:
    theory = "Unset Guard Checking.\nFixpoint f (n : nat) : False := f n.\nTheorem sum : False. Proof f 0.\n"
    found = asked(house(tmp_path, theory))
    assert found.fault or found.theorems["loss.sum"][0].fault


@needs_coq
@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ("(0 <= - (x * x))%R. Proof. intros x.", "the proofs do not compile: sums/Sums.v, line 4: "),  # a wrong sign
        ("(1 <= x * x)%R. Proof. intros x.", "the proofs do not compile: sums/Sums.v, line 4: "),  # a wrong scope
    ],
)
def test_a_wrong_statement_fails_the_build(tmp_path: Path, wrong: str, fault: str) -> None:
    proofs = house(tmp_path, THEORY.replace("(0 <= x * x)%R. Proof. intros x.", wrong))
    assert asked(proofs).fault.startswith(fault)


@needs_coq
def test_what_was_compiled_before_is_not_trusted(tmp_path: Path) -> None:
    import subprocess

    proofs = house(tmp_path)
    subprocess.run(["coqc", "-R", ".", "LeanMnist", "sums/Sums.v"], cwd=proofs, check=True)
    assert (proofs / "sums" / "Sums.vo").exists()
    (proofs / "sums" / "Sums.v").write_text("Theorem sum : 1 + 1 = 3. Proof. reflexivity. Qed.\n")
    assert asked(proofs).fault.startswith("the proofs do not compile: sums/Sums.v, line 1")


@pytest.mark.parametrize(
    ("named", "fault"),
    [
        ("loss.some sums.Sums.sum\n", "obligations.txt: there is no obligation loss.some"),
        ("loss.sum sum\n", "obligations.txt: loss.sum: expected folder.File.theorem, found 'sum'"),
        ("loss.sum sums.Sums.sum. Axiom\n", "obligations.txt: loss.sum: expected folder.File.theorem"),
        ("loss.sum sums.Other.sum\n", "obligations.txt names a theorem of sums/Other.v, and there is no such file"),
        ("# nothing\n", "obligations.txt names no theorem"),
    ],
)
@needs_coq
def test_a_table_that_does_not_fit_is_a_fault(tmp_path: Path, named: str, fault: str) -> None:
    found = asked(house(tmp_path, named=named))
    assert found.fault.startswith(fault)
    assert found.theorems == {}


def test_without_coq_or_without_the_proofs_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("coqc"):
        own = partial(own_proofs, house(tmp_path / "proofs"))  # as beside an installed package
        monkeypatch.setattr(coq, "own_proofs", own)
        with pytest.raises(ConfigError, match="proofs: expected the theories beside the package in a checkout of"):
            check_theorems(IDS, IDS, quiet)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="--coq: coqc was not found on PATH"):
        asked(house(tmp_path))


def test_an_answer_that_is_not_understood_is_a_fault() -> None:
    assert coq._parsed("Axioms:\na.b : forall x,\n  x = x\nClosed under the global context\nAxioms:\nc\n  : nat\n") == [
        ("a.b",),
        (),
        ("c",),
    ]
    for answer in ("Axioms:\nf is assumed to be guarded.\n", "Theory:\n  type in type\n", "Closed under\n", "a : b\n"):
        with pytest.raises(coq._Failed):
            coq._parsed(answer)


def _table(monkeypatch: pytest.MonkeyPatch, proofs: Path) -> None:
    derived = dataclasses.replace(an_obligation(holds, name="loss.squares"), method=Method.DERIVED)
    monkeypatch.setattr(report, "obligations", lambda: [an_obligation(holds, name="loss.sum"), derived])
    monkeypatch.setattr(report, "check_theorems", partial(check_theorems, proofs=proofs))


@needs_coq
def test_the_table_and_the_document_say_what_is_machine_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Result]
) -> None:
    _table(monkeypatch, house(tmp_path, named="loss.sum sums.Sums.sum\nloss.squares sums.Sums.squares\n"))
    document = json.loads(call("--coq", "--json").out)
    assert document["ok"]
    assert document["coq"]["fault"] == ""
    assert [row["machine_checked"] for row in document["obligations"]] == [True, True]
    assert document["obligations"][1]["established"] == "derived, and proved in Coq, for all n"
    assert document["obligations"][0]["theorems"] == [{"name": "sums.Sums.sum", "axioms": [], "fault": None}]
    found = call("--coq")
    assert found.status == 0
    assert "✓ Coq: sums.Sums.sum" in found.out
    text = " ".join(found.out.split())
    assert "2 of 2 obligations hold (1 proved by SymPy, 1 derived)" in text
    assert "2 of 2 obligations, by 2 theorems that rest on ClassicalDedekindReals.sig_forall_dec" in text
    assert "1 of 1: Coq, sums/Sums.v" in found.err


@needs_coq
def test_a_fault_of_the_proofs_is_a_failed_verdict_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Result]
) -> None:
    _table(monkeypatch, house(tmp_path / "a", named="loss.sum sums.Sums.gone\nloss.squares sums.Sums.squares\n"))
    found = call("--coq")
    assert found.status == 3
    assert found.err.splitlines()[-1] == "error: 1 of 2 obligations failed: loss.sum (ERROR)"
    assert "→ sums.Sums.gone: Coq says: The reference" in found.out
    _table(monkeypatch, house(tmp_path / "b", THEORY + "Theorem x : 0 = 1. Proof. reflexivity. Qed.\n"))
    found = call("--coq")
    assert found.status == 3
    assert found.err.splitlines()[-1].startswith("error: Coq: the proofs do not compile: sums/Sums.v, line 7: ")


def test_every_theorem_of_the_repository_s_table_is_stated_in_its_file() -> None:
    """Read as text; that every ``Theorem`` there is proved is what ``make -C proofs`` checks."""
    named = coq._read_obligations(PROOFS, {o.id for o in report.obligations()})
    for name in {name for names in named.values() for name in names}:
        folder, file, theorem = name.split(".")
        text = (PROOFS / folder / f"{file}.v").read_text()
        assert re.search(rf"\bTheorem {re.escape(theorem)}\b", text), name
