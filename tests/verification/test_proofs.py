"""The machine-checked theorems: their audit fails on whatever is assumed or unproved, and their numbers are ours."""

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest

from lean_mnist.generalization.exact import decimal_text
from lean_mnist.generalization.solve import epsilon

PROOFS = Path(__file__).parents[2] / "proofs"

needs_coq = pytest.mark.skipif(not shutil.which("coqc"), reason="needs coqc, of the Debian package coq")

PROVED = "Require Import Reals.\nTheorem sum : (1 + 1 = 2)%R.\nProof. ring. Qed.\n"


def _make(folder: Path, theory: str) -> subprocess.CompletedProcess[str]:
    """``make`` of a house of proofs that holds one theory."""
    for name in ("Makefile", "_CoqProject", "audit.py", "assumptions.txt"):
        shutil.copy(PROOFS / name, folder / name)
    (folder / "sums").mkdir()
    (folder / "sums" / "Sums.v").write_text(theory)
    return subprocess.run(["make", "-C", str(folder)], capture_output=True, text=True, timeout=120)


@needs_coq
def test_theorems_are_printed_with_the_axioms_beneath_them(tmp_path: Path) -> None:
    made = _make(tmp_path, "(* Nobody says Admitted. (* Nor: *) Axiom a : False. *)\n" + PROVED)
    assert made.returncode == 0, made.stderr
    assert "LeanMnist.sums.Sums: sum\n    rest on sig_forall_dec, functional_extensionality_dep\n" in made.stdout
    assert "1 theorems; every axiom beneath them stands in assumptions.txt" in made.stdout


@needs_coq
@pytest.mark.parametrize(
    ("theory", "fault"),
    [
        ("Theorem zero : 0 = 1.\nAdmitted.\n", "sums/Sums.v: Admitted"),
        ("Lemma zero : 0 = 1.\nProof. Admitted.\nTheorem one : 1 = 0.\nProof (eq_sym zero).\n", "Sums.zero"),
        ("Lemma unused : 0 = 1.\nProof. Admitted.\n" + PROVED, "sums/Sums.v: Admitted"),
        (PROVED + "Axiom wrong : 0 = 1.\n", "sums/Sums.v: Axiom"),
        ("Axiom wrong : 0 = 1.\nTheorem zero : 0 = 1.\nProof. exact wrong. Qed.\n", "Sums.wrong"),
        ("Variable wrong : 0 = 1.\nTheorem zero : 0 = 1.\nProof. exact wrong. Qed.\n", "Sums.wrong"),
        ("Hypotheses (n : nat) (wrong : n = 1).\nTheorem one : n = 1.\nProof. exact wrong. Qed.\n", "Sums.wrong"),
        ("Require Import ProofIrrelevance.\nTheorem all (p q : True) : p = q.\nProof. apply proof_irrelevance. Qed.\n",
         "ProofIrrelevance.proof_irrelevance"),
        ("Unset Guard Checking.\nFixpoint f (n : nat) : False := f n.\nTheorem no : False.\nProof f 0.\n",
         "sums/Sums.v: Unset Guard Checking"),
        ("Module Inner.\nTheorem one : 1 = 1.\nProof. easy. Qed.\nEnd Inner.\n", "LeanMnist.sums.Sums.one"),
        ("Lemma one : 1 = 1.\nProof. easy. Qed.\n", "no theorem was found"),
        ("Lemma l : 1 = 1.\nProof. (simpl in *). easy. Qed.\nAxiom no : False.\nTheorem two : 1 = 2.\n"
         "Proof. destruct no. Qed.\n", "sums/Sums.v: Axiom"),
        ("Context (no : 1 = 2).\nCorollary two : 1 = 2.\nProof. exact no. Qed.\n" + PROVED, "Sums.no"),
    ],
)  # fmt: skip
def test_what_is_assumed_or_unproved_fails(tmp_path: Path, theory: str, fault: str) -> None:
    made = _make(tmp_path, theory)
    assert made.returncode != 0
    assert fault in made.stderr, made.stdout + made.stderr


@needs_coq
def test_an_axiom_does_not_pass_for_that_of_a_library(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "Classical_Prop.v").write_text(
        "Hypothesis classic : False.\nTheorem two : 1 = 2.\nProof. destruct classic. Qed.\n"
    )
    made = _make(tmp_path, PROVED)
    assert made.returncode != 0
    assert "rests on Classical_Prop.classic" in made.stderr


@needs_coq
def test_a_proof_that_does_not_compile_fails(tmp_path: Path) -> None:
    made = _make(tmp_path, "Theorem zero : 0 = 1.\nProof. easy. Qed.\n")
    assert made.returncode != 0
    assert "Sums.v" in made.stderr


@pytest.mark.parametrize(
    ("name", "bits", "examples"),
    [("2_bit", 15_944, 240_000), ("16_bit", 127_104, 240_000), ("holdout", 0, 40_000)],
)
def test_the_epsilon_that_is_proved_is_the_one_that_is_computed(name: str, bits: int, examples: int) -> None:
    table = (PROOFS / "generalization" / "MlcertTable.v").read_text()
    found = epsilon("hoeffding", 0, examples, "1e-9", bits)
    for statement, value in ((f"epsilon_{name} :", found), (f"epsilon_{name}_is_least :", found - Fraction(1, 10**12))):
        sentence = table.partition(f"Theorem {statement} ")[2].partition("\nProof")[0]
        assert f"2 ^ {bits} * exp (- 2 * {decimal_text(value, 12, up=True)} ^ 2 * INR {examples})" in sentence
