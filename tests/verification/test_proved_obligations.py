"""The table of obligations whose mathematics is proved: every name in it is one of an obligation and of a theorem."""

import re
from collections import Counter
from pathlib import Path

from lean_mnist.verification.report import obligations

PROOFS = Path(__file__).parents[2] / "proofs"


def table() -> list[tuple[str, str]]:
    lines = (PROOFS / "obligations.txt").read_text().splitlines()
    pairs = [line.split() for line in lines if not line.startswith("#")]
    return [(obligation, theorem) for obligation, theorem in pairs]


def test_every_line_names_an_obligation_and_a_theorem() -> None:
    ids = {obligation.id for obligation in obligations()}
    for obligation, theorem in table():
        assert obligation in ids
        folder, file, name = theorem.split(".")
        text = (PROOFS / folder / f"{file}.v").read_text()
        assert re.search(rf"^ *Theorem {name}\b", text, re.MULTILINE), theorem


def test_no_line_stands_there_twice() -> None:
    assert max(Counter(table()).values()) == 1


def test_everything_mathematical_is_proved() -> None:
    """Of these groups every row, but those that are about tensors or cases, or hold by the definitions alone."""
    proved = {obligation for obligation, _ in table()}
    about_code = {
        "gradient.network-exact", "gradient.network-gradcheck", "gradient.network-full-size",
        "gradient.central-difference-network", "convergence.sgd-stationary-enumerated",
        "layer.forward-dimension", "layer.batch-dimension",
    }  # fmt: skip
    groups = {"gradient", "linear-algebra", "layer", "loss", "convergence"}
    assert {o.id for o in obligations() if o.group in groups} - proved == about_code
