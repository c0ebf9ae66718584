"""The corpus itself: each mutant is what it says it is, shows when it says it does, and leaves nothing behind."""

import functools
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.errors import ArgumentError
from lean_mnist.mutants import CONDITIONS, MUTANTS, mutant_named, planted
from lean_mnist.mutants.mutant import ACTIVATION, Group
from lean_mnist.mutants.planting import SITES
from lean_mnist.mutants.report import Fate
from lean_mnist.mutants.selftest import try_mutant
from lean_mnist.nn import functions
from tests.support.mutant_situations import SITUATIONS, observe

NAMES = [mutant.name for mutant in MUTANTS]


Clean = Callable[[str, bool], list[Tensor]]


@pytest.fixture(scope="module")
def clean() -> Clean:
    """Observations of each situation with nothing planted, computed once."""
    return functools.cache(lambda condition, holds: in_situation(condition, holds))


def in_situation(condition: str, holds: bool = True) -> list[Tensor]:
    """Observations of the situation in which a condition holds, or of that in which it does not."""
    situation = SITUATIONS[condition][0 if holds else 1]
    assert situation is not None
    return observe(situation)


def largest_difference(found: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Relative, over all tensors; infinite for NaN."""
    assert [g.shape for g in found] == [g.shape for g in right]
    shares = [
        float((f - r).norm() / r.norm().clamp(min=1e-300)) for f, r in zip(found, right, strict=True) if r.numel()
    ]
    return max((share if share == share else float("inf") for share in shares), default=0.0)


def bindings() -> dict[Any, Any]:
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
    assert sum(mutant.held_out for mutant in MUTANTS) >= 15
    assert sum(bool(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", mutant.source)) for mutant in MUTANTS) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_every_mutant_is_well_formed(name: str) -> None:
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
    for mutant in MUTANTS:
        assert 1 <= len(set(mutant.kinds)) == len(mutant.kinds) <= 2
    assert sum(len(mutant.kinds) > 1 for mutant in MUTANTS) <= len(MUTANTS) / 10
    foreign = {Kind.RANDOM_NUMBERS, Kind.UNINITIALISED}  # a backward that draws none, and keeps no empty tensor
    assert {kind for mutant in MUTANTS for kind in mutant.kinds} >= set(Kind) - foreign


def test_every_condition_is_used_and_has_its_situations() -> None:
    used = {mutant.condition for mutant in MUTANTS}
    assert used <= set(CONDITIONS) == set(SITUATIONS)
    assert all(name.startswith("activation ") for name in set(CONDITIONS) - used)


@pytest.mark.parametrize("name", NAMES)
def test_it_shows_when_its_condition_holds_and_not_when_it_does_not(name: str, clean: Clean) -> None:
    mutant = mutant_named(name)
    with planted(mutant):
        found = in_situation(mutant.condition)
    # In float64, where the smallest fault of the corpus (float32 inside) is still ten thousand units of rounding.
    assert largest_difference(found, clean(mutant.condition, True)) > 1e-8
    if SITUATIONS[mutant.condition][1] is not None:
        with planted(mutant):
            found = in_situation(mutant.condition, holds=False)
        assert largest_difference(found, clean(mutant.condition, False)) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_planting_leaves_nothing_behind(name: str) -> None:
    mutant = mutant_named(name)
    before = bindings()
    with planted(mutant):
        during = bindings()
    assert bindings() == before
    assert during != before


@pytest.mark.parametrize("site", SITES)
def test_planting_leaves_nothing_behind_after_an_exception(site: str) -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.site == site)
    before = bindings()
    with pytest.raises(KeyError), planted(mutant):
        raise KeyError
    assert bindings() == before


@pytest.mark.parametrize("site", SITES)
def test_while_suspended_the_right_backward_runs(site: str, clean: Clean) -> None:
    mutant = next(m for m in MUTANTS if m.site == site and (m.condition == "always" or site == "network"))
    right = clean(mutant.condition, True)
    with planted(mutant) as plant:
        with plant.suspended():
            assert largest_difference(in_situation(mutant.condition), right) < 1e-12
        assert largest_difference(in_situation(mutant.condition), right) > 1e-8


def test_a_fault_that_remembers_begins_anew_at_each_planting(clean: Clean) -> None:
    for _ in range(2):
        with planted("weight-not-cleared"):
            found = in_situation("second call", holds=False)
        assert largest_difference(found, clean("second call", False)) < 1e-12


def test_mutants_can_be_planted_one_in_the_other(clean: Clean) -> None:
    right = clean("always", True)
    with planted("weight-sign"), planted("bias-zero"):
        found = in_situation("always")
    weights, biases = found[::2], found[1::2]
    assert all(torch.equal(-f, r) for f, r in zip(weights, right[::2], strict=True))
    assert not any(bias.any() for bias in biases)


def test_an_unknown_name_is_one_line_with_the_nearest() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'weight-sign'"):
        mutant_named("weight-sing")


SLOPES: dict[str, Callable[..., Tensor]] = {
    "1 % too large": lambda original, saved, d_h: 1.01 * original(saved, d_h),
    "of the wrong sign": lambda original, saved, d_h: -original(saved, d_h),
    "of the example before": lambda original, saved, d_h: original(saved.roll(1, 0), d_h),
    "left out": lambda original, saved, d_h: d_h.clone(),
}


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_wrong_slope_of_any_activation_is_caught(name: str, slope: str) -> None:
    group = Group("slopes")
    group(ACTIVATION, "slope", Kind.DERIVATIVE, f"the derivative is {slope}", activation=name)(SLOPES[slope])
    result = try_mutant(group.mutants[0], steps=1)
    unchanged = name == "identity" and slope in ("left out", "of the example before")
    assert result.fate is (Fate.NOT_SHOWN if unchanged else Fate.CAUGHT)
