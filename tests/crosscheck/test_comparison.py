"""What ``compare`` forgives, what it does not, and what it says."""

import math
from typing import Any

import pytest
import torch

from lean_mnist.crosscheck.comparison import Divergence, compare

SEEDS = range(5)
SHAPES = ((128, 784), (17, 5), (10,), (1, 1), ())


def exact_and_baseline(seed: int, shape: Any, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Any:
    exact = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return exact, exact.to(dtype)


def rounded_differently(baseline: Any, seed: int) -> Any:
    """``baseline`` with every element moved by up to two units in the last place."""
    generator = torch.Generator().manual_seed(seed + 1000)
    moves = torch.randint(-2, 3, baseline.shape, generator=generator).to(baseline.dtype)
    return baseline * (1 + moves * torch.finfo(baseline.dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_accepts_rounding(shape: Any, dtype: torch.dtype, scale: float) -> None:
    for seed in SEEDS:
        exact, baseline = exact_and_baseline(seed, shape, dtype, scale)
        divergence = compare("w", rounded_differently(baseline, seed), exact, baseline)
        assert divergence.passed, f"seed {seed}: {divergence}"
        assert divergence.share <= 1


def element(value: Any) -> Any:
    def change(ours: Any) -> Any:
        # neither the largest nor the smallest: the one in the middle
        middle = ours.abs().flatten().argsort()[ours.numel() // 2]
        ours.view(-1)[middle] = value
        return ours

    return change


def one_row(ours: Any) -> Any:
    ours[-1] *= 1.01
    return ours


FAULTS = {
    "scale 1.001": lambda ours: ours * 1.001,
    "scale 1.0001": lambda ours: ours * 1.0001,
    "scale 1.00001": lambda ours: ours * 1.00001,
    "sign": lambda ours: -ours,
    "zero": torch.zeros_like,
    "one element zero": element(0.0),
    "one element NaN": element(math.nan),
    "one element inf": element(math.inf),
    "one element -inf": element(-math.inf),
    "one row 1 % off": one_row,
    "shifted by one": lambda ours: ours.roll(1),
    "every element NaN": lambda ours: ours * math.nan,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(128, 784), (17, 5), (10,)])
@pytest.mark.parametrize("fault", FAULTS)
def test_refuses(fault: Any, shape: Any, dtype: torch.dtype) -> None:
    for seed in SEEDS:
        exact, baseline = exact_and_baseline(seed, shape, dtype)
        divergence = compare("w", FAULTS[fault](rounded_differently(baseline, seed)), exact, baseline)
        assert not divergence.passed, f"seed {seed}: {divergence}"
        assert not divergence.share <= 1


@pytest.mark.parametrize("fault", ["sign", "zero", "shifted by one", "one element NaN", "one element inf"])
def test_refuses_in_bfloat16(fault: Any) -> None:
    exact, baseline = exact_and_baseline(0, (17, 5), torch.bfloat16)
    assert not compare("w", FAULTS[fault](rounded_differently(baseline, 0)), exact, baseline).passed


@pytest.mark.parametrize("seed", SEEDS)
def test_a_bad_baseline_loosens_the_tolerance_to_its_own_error_and_no_further(seed: int) -> None:
    exact, baseline = exact_and_baseline(seed, (30, 20))
    worse = baseline * (1 + 1e-3)
    assert compare("w", baseline * (1 - 5e-3), exact, worse).passed
    assert not compare("w", baseline * (1 - 2e-2), exact, worse).passed


def test_a_baseline_that_overflowed_excuses_nothing() -> None:
    exact, baseline = exact_and_baseline(0, (4, 3))
    baseline[0, 0] = math.inf
    assert not compare("w", -exact.float(), exact, baseline).passed


def test_magnitude_says_what_rounding_is_relative_to() -> None:
    """A difference of two numbers near 1000: 6e-5 is one unit in the last place of them, not of the result."""
    exact = torch.tensor(1e-3, dtype=torch.float64)
    ours, baseline = torch.tensor(1e-3 + 6e-5), torch.tensor(1e-3)
    assert not compare("loss", ours, exact, baseline).passed
    assert compare("loss", ours, exact, baseline, magnitude=1000.0).passed
    assert not compare("loss", ours + 0.01, exact, baseline, magnitude=1000.0).passed


def test_names_the_place_and_both_values() -> None:
    exact, baseline = exact_and_baseline(3, (4, 3))
    ours = baseline.clone()
    ours[2, 1] = 12.25
    divergence = compare("layers.0.weight", ours, exact, baseline)
    assert (divergence.index, divergence.ours, divergence.reference) == ((2, 1), 12.25, float(exact[2, 1]))
    relative = abs(12.25 - float(exact[2, 1])) / float(exact.norm())
    assert divergence.value == pytest.approx(relative, rel=1e-5)
    text = str(divergence)
    assert text.startswith(f"layers.0.weight[2, 1]: hand-written 12.25, reference {float(exact[2, 1]):.9g} (")
    assert f"divergence {relative:.2e}" in text
    assert f"rounding explains {divergence.allowed:.2e}" in text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_names_the_place_that_is_not_finite(value: Any) -> None:
    exact, baseline = exact_and_baseline(4, (4, 3))
    ours = baseline.clone()
    ours[0, 0] += 1000
    ours[1, 2] = value
    divergence = compare("b", ours, exact, baseline)
    assert divergence.index == (1, 2)
    assert f"b[1, 2]: hand-written {value}" in str(divergence)


def test_a_scalar_has_no_index() -> None:
    divergence = compare("loss", torch.tensor(2.0), torch.tensor(1.0, dtype=torch.float64), torch.tensor(1.0))
    assert not divergence.passed
    assert str(divergence).startswith("loss: hand-written 2, reference 1 ")


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0)])
def test_nothing_is_equal_to_nothing(shape: Any) -> None:
    divergence = compare("w", torch.empty(shape), torch.empty(shape, dtype=torch.float64), torch.empty(shape))
    assert divergence == Divergence("w", 0.0, 0.0, (), 0.0, 0.0)
    assert divergence.passed
    assert divergence.share == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_zero_is_compared_absolutely(dtype: torch.dtype) -> None:
    exact, zero = torch.zeros(4, 3, dtype=torch.float64), torch.zeros(4, 3, dtype=dtype)
    assert compare("w", zero, exact, zero).passed
    assert compare("w", zero, exact, zero).share == 0
    for wrong in (1e-30, 1.0, 1e30):
        ours = zero.clone()
        ours[1, 1] = wrong
        divergence = compare("w", ours, exact, zero)
        assert not divergence.passed
        assert divergence.share > 1
        assert divergence.index == (1, 1)


def test_subnormal_numbers_may_be_flushed_but_not_invented() -> None:
    exact = torch.full((4, 3), 1e-40, dtype=torch.float64)
    assert compare("w", torch.zeros(4, 3), exact, exact.float()).passed
    assert compare("w", exact.float(), exact, torch.zeros(4, 3)).passed
    assert not compare("w", torch.full((4, 3), 1e-30), exact, exact.float()).passed


def test_share_is_the_part_of_the_allowance_that_was_used() -> None:
    assert Divergence("w", 1.0, 4.0, (), 0.0, 0.0).share == 0.25
    assert Divergence("w", 0.0, 0.0, (), 0.0, 0.0).share == 0
    assert Divergence("w", 1.0, 0.0, (), 0.0, 0.0).share == math.inf
    assert math.isnan(Divergence("w", math.nan, 1.0, (), 0.0, 0.0).share)
    assert Divergence("w", 1.0, 1.0, (), 0.0, 0.0).passed
    assert not Divergence("w", math.nan, 1.0, (), 0.0, 0.0).passed


def test_the_arguments_are_left_alone() -> None:
    exact, baseline = exact_and_baseline(0, (4, 3))
    ours = baseline.clone().requires_grad_()
    copies = [t.detach().clone() for t in (ours, exact, baseline)]
    compare("w", ours, exact, baseline)
    for tensor, copy in zip((ours, exact, baseline), copies, strict=True):
        assert torch.equal(tensor, copy)


def test_shapes_must_agree() -> None:
    with pytest.raises(AssertionError):
        compare("w", torch.zeros(2), torch.zeros(3, dtype=torch.float64), torch.zeros(2))


def test_a_reference_of_nothing_but_zeros_gives_a_number_that_can_be_drawn() -> None:
    zeros = torch.zeros(3, 4, dtype=torch.float64)
    ours = torch.full((3, 4), 1e-3)
    alone, beside_terms = compare("w", ours, zeros, ours * 0), compare("w", ours, zeros, ours * 0, magnitude=100.0)
    assert alone.value == pytest.approx(1e-3 * 12**0.5)
    assert beside_terms.value == pytest.approx(1e-5 * 12**0.5)
    assert not alone.passed
    assert not beside_terms.passed
    assert compare("w", ours * 0, zeros, ours * 0).value == 0
