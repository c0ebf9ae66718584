"""The table of obligations whose mathematics is proved: every name in it is one of an obligation and of a theorem."""

import re
from collections import Counter
from pathlib import Path

import pytest
import sympy

from lean_mnist.verification.report import obligations
from lean_mnist.verification.statements.convergence import CLAIMS

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


WRITTEN = {"||theta - star||^2": "r0", "(f theta - f_min)": "r0", "INR T": "t", "INR t": "t", "^": "**", "sigma2": "s2"}
NAMED = {"r₀": "r0", "σ²": "s2", "α": "alpha", "μ": "mu", "L": "L", "t": "t"}


def _parsed(text: str) -> sympy.Expr:
    for one, other in WRITTEN.items():
        text = text.replace(one, other)
    return sympy.sympify(text, {name: sympy.Symbol(name) for name in NAMED.values()})


@pytest.mark.parametrize(
    ("claim", "file", "theorem"),
    [
        ("strongly convex", "StochasticGradient", "sgd_strongly_convex"),
        ("convex, no noise", "GradientDescent", "gradient_descent_convex"),
        ("convex", "StochasticGradient", "sgd_convex"),
        ("not convex", "StochasticGradient", "sgd_stationary"),
    ],
)
def test_a_claim_is_the_one_that_its_theorem_states(claim: str, file: str, theorem: str) -> None:
    """The largest rate and the bound, read from the theorem's own text."""
    text = (PROOFS / "convergence" / f"{file}.v").read_text()
    stated = text.partition(f"Theorem {theorem} ")[2].partition("Proof.")[0].strip().removesuffix(".")
    largest = stated.partition("0 < alpha <= ")[2].partition("->")[0]
    for theirs, ours in ((largest, CLAIMS[claim].largest), (stated.rpartition("<= ")[2], CLAIMS[claim].bound)):
        renamed = ours.subs({symbol: sympy.Symbol(NAMED[symbol.name]) for symbol in ours.free_symbols})
        assert sympy.simplify(_parsed(theirs) - renamed) == 0, theirs
