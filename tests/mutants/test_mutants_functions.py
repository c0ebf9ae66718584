"""Whole Functions with a fault: the right ones pass, the faulty ones are refused, and what escapes is said."""

import re
from dataclasses import replace

import pytest

from lean_mnist.errors import GradientMismatch
from lean_mnist.mutants import FUNCTION_MUTANTS, MUTANTS, run_selftest
from lean_mnist.mutants.report import Fate
from lean_mnist.mutants.selftest import try_mutant
from lean_mnist.mutants.whole_function import FunctionMutant

BY_NAME = {mutant.name: mutant for mutant in FUNCTION_MUTANTS}
# Refused, and called something else, or only said to be wrong.
MISNAMED = {
    *("softmax-of-two-as-sigmoid", "random-state-kept-late", "undefined-upstream-is-one", "jvp-second-tangent-lost"),
    *(
        "ties-each-get-all",
        "ties-have-one-rank",
        "jvp-twice",
        "vmap-dimension-ignored",
        "vmap-first-for-all",
        "results-exchanged",
        "used-twice-counted-once",
    ),
}


def test_names_are_unique_among_all_planted_bugs() -> None:
    assert len(BY_NAME) == len(FUNCTION_MUTANTS)
    assert not set(BY_NAME) & {mutant.name for mutant in MUTANTS}


@pytest.mark.parametrize("name", BY_NAME)
def test_every_one_is_well_formed(name: str) -> None:
    mutant = BY_NAME[name]
    assert re.fullmatch(r"[a-z0-9-]+", name)
    assert mutant.description
    assert not mutant.description.endswith(".")
    assert 1 <= len(set(mutant.kinds)) == len(mutant.kinds) <= 2


@pytest.mark.parametrize("name", BY_NAME)
def test_the_faulty_one_is_refused_and_named_and_the_right_one_passes(name: str) -> None:
    mutant = BY_NAME[name]
    right = mutant.report(False, seed=0)
    assert right.ok, str(right)
    result = try_mutant(mutant)
    assert result.caught, result.message
    assert result.named_rightly or name in MISNAMED, (result.called, result.message)


def unchanged(mutant: FunctionMutant) -> FunctionMutant:
    """A mutant whose faulty function is the right one."""
    return replace(mutant, make=lambda wrong: mutant.make(False))


def test_a_fault_that_the_check_passes_is_reported_as_escaped() -> None:
    found = run_selftest([unchanged(BY_NAME["kept-on-the-class"])])
    assert found.results[0].fate is Fate.ESCAPED
    assert not found.ok
    with pytest.raises(GradientMismatch, match="kept-on-the-class"):
        found.raise_if_failed()


def test_a_right_function_that_the_check_refuses_is_a_false_alarm() -> None:
    mutant = BY_NAME["kept-on-the-class"]
    found = run_selftest([replace(mutant, make=lambda wrong: mutant.make(True))])
    assert found.score == 1
    assert not found.ok
    assert "false alarm: kept-on-the-class, right: " in str(found)


def test_a_right_function_that_nothing_judged_is_a_false_alarm_too() -> None:
    mutant = BY_NAME["kept-on-the-class"]
    oracles = ("gradient", "JVP-VJP product", "finite differences", "Taylor test", "gradcheck")
    found = run_selftest([replace(mutant, options={**mutant.options, "skip": oracles})])
    assert not found.ok
    assert "right: INCONCLUSIVE" in str(found)
