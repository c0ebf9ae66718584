"""The corpus itself: each mutant is what it says it is, shows when it says it does, and leaves nothing behind."""

import re
import sys

import pytest
import torch

from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.errors import ArgumentError
from lean_mnist.mutants import CONDITIONS, MUTANTS, mutant_named, planted
from lean_mnist.mutants.conditions import observe
from lean_mnist.mutants.kinds import TRUE_KINDS
from lean_mnist.mutants.mutant import SITES
from lean_mnist.nn import functions

NAMES = [mutant.name for mutant in MUTANTS]


@pytest.fixture(scope="module")
def clean():
    """What each situation shows with nothing planted, computed once."""
    seen = {}

    def of(condition, holds):
        if (condition.name, holds) not in seen:
            seen[condition.name, holds] = observe(condition.holds if holds else condition.fails)
        return seen[condition.name, holds]

    return of


def largest_difference(found, right):
    """Relative, over all tensors; infinite for NaN."""
    assert [g.shape for g in found] == [g.shape for g in right]
    shares = [
        float((f - r).norm() / r.norm().clamp(min=1e-300)) for f, r in zip(found, right, strict=True) if r.numel()
    ]
    return max((share if share == share else float("inf") for share in shares), default=0.0)


def bindings():
    """Every name in our modules, every attribute of our Functions and every activation: what planting may touch."""
    ours = {
        (name, alias): value
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "lean_mnist"
        for alias, value in list(vars(module).items())
        if callable(value)
    }
    nodes = {
        (value.__name__, "backward"): vars(value).get("backward")
        for value in vars(functions).values()
        if isinstance(value, type)
    }
    return {**ours, **nodes, **ACTIVATIONS}


def test_names_are_unique_and_the_numbers_promised_are_there() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 64
    assert sum(mutant.written_after_freeze for mutant in MUTANTS) >= 15
    assert sum(bool(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", mutant.source)) for mutant in MUTANTS) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_every_mutant_is_well_formed(name) -> None:
    mutant = mutant_named(name)
    assert mutant.condition in CONDITIONS
    assert mutant.site in SITES
    assert mutant.activation in ACTIVATIONS
    assert re.fullmatch(r"[a-z0-9.-]+", mutant.name)
    assert mutant.description
    assert not mutant.description.endswith(".")
    assert mutant.source == "" or re.match(r"[\w.-]+/[\w.-]+(#\d+| \w+)$", mutant.source)
    assert mutant.new_fault() is not None
    assert not mutant.ours_only or (mutant.generic and mutant.equivalent_when)


def test_every_mutant_has_its_true_class_and_seldom_two() -> None:
    assert set(TRUE_KINDS) == set(NAMES)
    for mutant in MUTANTS:
        assert mutant.kinds == TRUE_KINDS[mutant.name]
        assert set(mutant.kinds) <= set(Kind)
        assert 1 <= len(set(mutant.kinds)) == len(mutant.kinds) <= 2
    assert sum(len(mutant.kinds) > 1 for mutant in MUTANTS) <= len(MUTANTS) / 10
    assert {kind for mutant in MUTANTS for kind in mutant.kinds} == set(Kind)


def test_every_condition_is_used() -> None:
    assert {mutant.condition for mutant in MUTANTS} == set(CONDITIONS)


@pytest.mark.parametrize("name", NAMES)
def test_it_shows_when_its_condition_holds_and_not_when_it_does_not(name, clean) -> None:
    mutant = mutant_named(name)
    condition = CONDITIONS[mutant.condition]
    with planted(mutant):
        found = observe(condition.holds)
    # In float64, where the smallest fault of the corpus (float32 inside) is still ten thousand units of rounding.
    assert largest_difference(found, clean(condition, True)) > 1e-8
    if condition.fails is not None:
        with planted(mutant):
            found = observe(condition.fails)
        assert largest_difference(found, clean(condition, False)) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_planting_leaves_nothing_behind(name) -> None:
    mutant = mutant_named(name)
    before = bindings()
    with planted(mutant):
        during = bindings()
    assert bindings() == before
    assert during != before


@pytest.mark.parametrize("site", SITES)
def test_planting_leaves_nothing_behind_after_an_exception(site) -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.site == site)
    before = bindings()
    with pytest.raises(KeyError), planted(mutant):
        raise KeyError
    assert bindings() == before


@pytest.mark.parametrize("site", SITES)
def test_while_suspended_the_right_backward_runs(site, clean) -> None:
    mutant = next(m for m in MUTANTS if m.site == site and (m.condition == "always" or site == "network"))
    condition = CONDITIONS[mutant.condition]
    right = clean(condition, True)
    with planted(mutant) as plant:
        with plant.suspended():
            assert largest_difference(observe(condition.holds), right) < 1e-12
        assert largest_difference(observe(condition.holds), right) > 1e-8


def test_a_fault_that_remembers_begins_anew_at_each_planting(clean) -> None:
    mutant, condition = mutant_named("weight-not-cleared"), CONDITIONS["second call"]
    for _ in range(2):
        with planted(mutant):
            found = observe(condition.fails)
        assert largest_difference(found, clean(condition, False)) < 1e-12


def test_mutants_can_be_planted_one_in_the_other(clean) -> None:
    right = clean(CONDITIONS["always"], True)
    with planted(mutant_named("weight-sign")), planted(mutant_named("bias-zero")):
        found = observe(CONDITIONS["always"].holds)
    weights, biases = found[::2], found[1::2]
    assert all(torch.equal(-f, r) for f, r in zip(weights, right[::2], strict=True))
    assert not any(bias.any() for bias in biases)


def test_an_unknown_name_is_one_line_with_the_nearest() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'weight-sign'"):
        mutant_named("weight-sing")
