"""Ball arithmetic contains what exact rational arithmetic gives, and says nothing where nothing is known."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from lean_mnist.chainrule.arrays import primitives
from lean_mnist.enclosure.ball import Ball
from lean_mnist.errors import ArgumentError
from tests.support.enclosure_rational import fractions_of_tensor, run_rational

INF, NAN = math.inf, math.nan


def ball(mids: Any, rads: Any = 0.0) -> Ball:
    mid = torch.tensor(mids, dtype=torch.float64)
    return Ball(mid, torch.as_tensor(rads, dtype=torch.float64).expand(mid.shape).clone())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_operation_contains_the_rational_result(seed: int) -> None:
    tally = run_rational(seed, 15_000)
    assert not tally.escaped, f"seed {seed}: {len(tally.escaped)} escaped, first {tally.escaped[0]}"
    assert tally.finite > 0.9 * tally.asked  # an infinite radius contains everything and proves nothing


@pytest.mark.parametrize(("m", "n", "k"), [(5, 4, 784), (3, 2, 3000)])
@pytest.mark.parametrize("cancels", [False, True])
def test_long_products_and_sums_contain_the_rational_result(m: int, n: int, k: int, cancels: bool) -> None:
    generator = torch.Generator().manual_seed(k)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((m, k), (k, n)))
    if cancels:  # to the last digits: the second half takes back the first, but for 1e-14 of it
        a[:, k // 2 :], b[k // 2 :] = a[:, : k // 2], -b[: k // 2] * (1 + 1e-14)
    x, y = Ball.exact(a), Ball.exact(b)
    exact_product = fractions_of_tensor(a) @ fractions_of_tensor(b)
    for place, exact in (
        (x @ y, exact_product),
        (primitives(x).affine(x, y.T, None), exact_product),
        (x.sum(1), fractions_of_tensor(a).sum(1)),
    ):
        error = np.abs(exact - fractions_of_tensor(place.mid))
        assert (error <= fractions_of_tensor(place.rad)).all()
        assert float(place.rad.max()) < 1e-9


def test_a_product_encloses_every_order_of_summation() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((6, 500), (500, 7)))
    first = Ball.exact(a) @ Ball.exact(b)
    for _ in range(20):
        order = torch.randperm(500, generator=generator)
        again = a[:, order] @ b[order]
        assert ((again - first.mid).abs() <= 2 * first.rad).all()
        one_by_one = torch.zeros_like(again)
        for place in order:
            one_by_one += a[:, place, None] * b[place]
        assert ((one_by_one - first.mid).abs() <= 2 * first.rad).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_ball_of_a_tensor_is_exact(dtype: torch.dtype) -> None:
    kind = torch.finfo(dtype)
    values = torch.tensor([0.0, 1.0, -kind.max, kind.tiny, kind.tiny * kind.eps, 0.1], dtype=dtype)
    made = Ball.exact(values)
    assert made.is_exact
    assert made.mid.to(dtype).equal(values)
    assert made.least <= float(values[4]) or made.least == 0


@pytest.mark.parametrize("bad", [INF, -INF, NAN])
def test_what_is_no_real_number_has_an_infinite_radius_and_hands_it_on(bad: float) -> None:
    x = Ball.exact(torch.tensor([[bad, 1.0], [2.0, 3.0]]))
    w = Ball.exact(torch.zeros(2, 2))
    p = primitives(x)
    assert x.rad.tolist() == [[INF, 0], [0, 0]]
    results = [x + 1, 1 - x, x * 2, x * 0, x / 3, x.T, -x, x * x, p.where_nonpositive(x, 0, x)]
    results += [getattr(p, name)(x) for name in ("exp", "log", "tanh", "sigmoid", "erf")]
    for result in results:
        assert result.rad[0, 0] == INF
        assert not result.mid.isnan().any()
        assert not result.rad.isnan().any()
    assert (x @ w).rad.tolist() == [[INF, INF], [0, 0]]
    assert x.sum(0).rad[0] == INF
    assert p.where_nonpositive(x, Ball.exact(torch.ones(2, 2)), w).rad[0, 0] == INF
    assert (Ball.exact(torch.ones(1, 2)) / x[:1]).rad[0, 0] == INF
    assert (x + bad).rad.isinf().all()


def test_overflow_has_an_infinite_radius() -> None:
    huge = ball([1e200, -1e308])
    for result in (huge * huge, huge * 1e200, huge @ huge, (huge * 1.7).sum(0) * 10, huge + huge * 1.5, huge / 1e-200):
        assert result.rad.isinf().any()
        assert result.mid.isfinite().all()
    assert primitives(huge).exp(ball([710.0])).rad[0] == INF


@pytest.mark.parametrize(("mid", "rad"), [(0.0, 0.0), (1.0, 1.0), (1e-300, 1.0), (-1.0, 2.0), (1.0, INF)])
def test_division_by_a_ball_that_may_be_zero_is_infinite(mid: float, rad: float) -> None:
    for numerator in (1, 0, ball([0.0]), ball([2.0], 0.5)):
        assert (numerator / ball([mid], rad)).rad[0] == INF


@pytest.mark.parametrize(("mid", "rad"), [(0.0, 0.0), (1.0, 1.0), (-1.0, 0.0), (1.0, 2.0)])
def test_the_logarithm_of_a_ball_that_may_not_be_positive_is_infinite(mid: float, rad: float) -> None:
    x = ball([mid], rad)
    assert primitives(x).log(x).rad[0] == INF


def test_the_root_of_a_ball_that_may_be_negative_is_infinite_and_no_other_power_is_taken() -> None:
    assert (ball([1.0, 0.0, -1.0], [2.0, 1e-300, 0.0]) ** 0.5).rad.isinf().all()
    assert (ball([0.0]) ** 0.5).is_exact
    for exponent in (2, 0.25, ball([0.5, 0.5]), ball([0.5], 0.1)):
        with pytest.raises(ArgumentError, match="square root"):
            ball([4.0]) ** exponent


def test_zeros_stay_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    zero, other = ball([[0.0] * 3] * 2), Ball.exact(torch.randn(3, 4, generator=generator))
    subnormal = ball([[2.0**-1074] * 4] * 3, 2.0**-1074)
    for result in (zero @ other, zero * ball([1e-320] * 3, 1e-320), zero / 3, zero.sum(1), zero + zero):
        assert result.is_zero.all()
    assert not (ball([[2.0**-1074] * 3] * 2) @ subnormal).is_zero.any()
    nothing = Ball.exact(torch.zeros(2, 0))
    assert primitives(nothing).affine(nothing, Ball.exact(torch.zeros(4, 0)), None).is_zero.all()


def test_constants_mean_the_decimal_that_is_written() -> None:
    like = ball([1.0])
    hundredth = primitives(like).constant(0.01, like)
    difference = abs(Fraction(1, 100) - Fraction(0.01))
    assert difference > 0
    assert difference <= Fraction(float(hundredth.rad)) <= difference * Fraction(1001, 1000)
    assert primitives(like).constant(0.5, like).is_exact
    assert (like * Fraction(1, 3)).rad > 0
    assert (like + 2**60).is_exact is False or float((like + 2**60).rad) >= 0
    assert Ball.of_number(2**53 + 1, like).rad == math.nextafter(1, 2)
    assert Ball.of_number(10**400, like).rad == INF
    assert Ball.of_number(NAN, like).rad == INF


def test_an_undecided_branch_encloses_both() -> None:
    condition = ball([-1.0, 1.0, 0.0, 0.0, 1e-9, -1e-9], [0.5, 0.5, 0.0, 1e-12, 1e-9, 1e-9])
    then, otherwise = ball([10.0] * 6, 0.5), ball([20.0] * 6, 0.25)
    result = primitives(condition).where_nonpositive(condition, then, otherwise)
    assert result.mid[:3].tolist() == [10, 20, 10]
    for place in (3, 4):  # 0 ± 1e-12 and 1e-9 ± 1e-9 hold numbers of both kinds; −1e-9 ± 1e-9 is at most 0
        assert result.mid[place] - result.rad[place] <= 9.5
        assert result.mid[place] + result.rad[place] >= 20.25
    assert result.mid[5] == 10
    assert result.rad[[0, 1, 2, 5]].tolist() == [0.5, 0.25, 0.5, 0.5]


@pytest.mark.parametrize(
    "wrong", [torch.tensor([1, 2]), torch.tensor([1j]), [1.0], np.ones(2)], ids=["int64", "complex", "list", "numpy"]
)
def test_other_kinds_are_refused(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match="expected"):
        Ball.exact(wrong)
    with pytest.raises(ArgumentError, match="expected"):
        ball([1.0, 2.0]) + wrong


def test_a_forward_product_is_rounded_once_and_a_short_one_not_at_all() -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5, 784), (6, 784)))
    x, w = Ball.exact(a), Ball.exact(b)
    assert (primitives(x).affine(x, w, None).rad < 2.0**-52 * (a.abs() @ b.abs().T)).all()
    assert (primitives(x).affine(x, w, None).rad.max()) < 0.01 * (x @ w.T).rad.max()
    pixels = Ball.exact(torch.tensor([[255.0, 0.0, -255.0]]))
    ones = Ball.exact(torch.ones(1, 3))
    assert primitives(pixels).affine(pixels, ones, None).is_zero.all()  # so this unit is known to be at its kink


def test_a_ball_shows_what_it_holds() -> None:
    assert "mid=tensor" in repr(ball([1.0], 0.5))
