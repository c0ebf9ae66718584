"""Upper bounds on a risk from a count of errors: k errors in m i.i.d. examples, failing with probability at most δ.

Every bound answers one question, decided by ball arithmetic: does it *confirm* that the risk is at most p? What is
returned is the least decimal that it confirms, so it is rounded outward and never to nearest. Numbers go in as ints,
Fractions or text; floats are refused (:func:`lean_mnist.generalization.exact.exact`), and only guess where to look.
To add a bound, add it to ``BOUNDS``; for certificates also to the checker's ``THEOREMS`` and ``confirms``.

| name | confirms that the risk is at most p when | source |
|---|---|---|
| ``hoeffding`` | p ≥ k/m and 2m(p − k/m)² ≥ ln(1/δ) | Hoeffding 1963, theorem 1 (MLCERT's Chernoff bound) |
| ``kl`` | p ≥ k/m and m · kl(k/m ‖ p) ≥ ln(1/δ) | Chernoff 1952; Langford 2005 |
| ``clopper-pearson`` | p > k/m and P[Binomial(m, p) ≤ k] ≤ δ | Clopper and Pearson 1934; Langford 2005 |
| ``empirical-bernstein`` | p ≥ k/m + √(2V ln(2/δ)/m) + 7 ln(2/δ)/(3(m − 1)) | Maurer and Pontil 2009, theorem 4 |

``kl(q ‖ p) = q ln(q/p) + (1 − q) ln((1 − q)/(1 − p))``, and ``V = k(m − k)/(m(m − 1))`` is the sample variance.
For several hypotheses, evaluations or sides, give the bound its share of δ: :mod:`~.generalization.confidence`.
All but the last are machine-checked theorems, PAC-Bayes-kl for priors of finite support: ``proofs/generalization``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from lean_mnist.errors import BoundError, check_choice
from lean_mnist.generalization.exact import Exact, ball, decide, exact, least

if TYPE_CHECKING:
    import flint

DIGITS = 12  # after the point, of every bound that is returned, unless asked for otherwise


def checked_counts(errors: int, examples: int) -> tuple[int, int]:
    """``(k, m)``; raises ``BoundError`` unless they are whole numbers with m ≥ 1 and 0 ≤ k ≤ m."""
    for name, value in (("errors", errors), ("examples", examples)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise BoundError(f"{name}: expected a whole number, found {value!r}")
    if examples < 1:
        raise BoundError(f"examples: expected at least 1, found {examples}; no examples say nothing")
    if not 0 <= errors <= examples:
        raise BoundError(f"errors: expected from 0 to the number of examples, {examples}, found {errors}")
    return errors, examples


def checked_delta(delta: Exact) -> Fraction:
    """δ as a Fraction; raises ``BoundError`` unless it lies strictly between 0 and 1."""
    value = exact(delta, "delta")
    if not 0 < value < 1:
        raise BoundError(f"delta: expected a probability strictly between 0 and 1, found {delta}")
    return value


def checked_risk(risk: Exact, name: str = "risk") -> Fraction:
    """A risk, or an ε, as a Fraction; raises ``BoundError`` unless it lies from 0 to 1."""
    value = exact(risk, name)
    if not 0 <= value <= 1:
        raise BoundError(f"{name}: expected a number from 0 to 1, found {risk}")
    return value


def confirms(bound: str, errors: int, examples: int, delta: Exact, risk: Exact) -> bool:
    """Decide whether ``bound`` shows, with confidence 1 − δ, that the risk is at most ``risk``.

    Raises ``BoundError`` for an unknown bound and for impossible numbers. A risk of 1 is always confirmed.
    """
    k, m = checked_counts(errors, examples)
    return named(bound).confirms(Fraction(k), m, checked_delta(delta), checked_risk(risk))


def upper_risk(bound: str, errors: int, examples: int, delta: Exact, digits: int = DIGITS) -> Fraction:
    """The least decimal with ``digits`` digits that ``bound`` confirms as an upper bound on the risk; at most 1.

    Raises ``BoundError`` for an unknown bound and for impossible numbers.
    """
    k, m = checked_counts(errors, examples)
    found, share = named(bound), checked_delta(delta)
    if not 1 <= digits <= 100:
        raise BoundError(f"digits: expected from 1 to 100, found {digits}")
    scale = 10**digits
    low = -(-k * scale // m)  # no bound confirms less than what was measured
    start = int(found.guess(k, m, share) * scale)
    risk = least(lambda n: found.confirms(Fraction(k), m, share, Fraction(n, scale)), start, low, scale)
    return Fraction(risk, scale)


def risk_interval(bound: str, errors: int, examples: int, delta: Exact) -> tuple[Fraction, Fraction]:
    """Two-sided: an interval that holds the risk with confidence 1 − δ, each side with δ/2.

    The lower end is 1 less the upper bound for ``m − k`` errors: every bound treats errors and successes alike.
    """
    half, (k, m) = checked_delta(delta) / 2, checked_counts(errors, examples)
    return 1 - upper_risk(bound, m - k, m, half), upper_risk(bound, k, m, half)


def pac_bayes_risk(
    empirical_risk: Exact, examples: int, divergence: Exact, delta: Exact, digits: int = DIGITS
) -> Fraction:
    """PAC-Bayes-kl: the least decimal p ≥ q̂ with ``m · kl(q̂ ‖ p) ≥ KL + ln(2√m / δ)``, an upper bound on the risk.

    ``empirical_risk`` q̂ is the posterior's expected empirical risk, or an upper bound on it that is paid for elsewhere;
    ``divergence`` KL(posterior ‖ prior) in nats, or an upper bound on it, where the prior must not depend on these m
    examples. Raises ``BoundError`` for numbers that cannot be.

    Source: Seeger 2002; the constant is Maurer's (2004), proved for every m in ``proofs/generalization``.
    """
    _, m = checked_counts(0, examples)
    q, kl = checked_risk(empirical_risk, "empirical risk"), exact(divergence, "divergence")
    if kl < 0:
        raise BoundError(f"divergence: expected a Kullback–Leibler divergence of at least 0, found {divergence}")
    share = checked_delta(delta)

    def satisfied(n: int) -> bool:
        """Decide if the risk ``n / 10^digits`` is confirmed."""
        p = Fraction(n, 10**digits)
        if p == 1 or p < q:
            return p == 1
        return decide(lambda: m * relative_entropy(q, p) - ball(kl) - ball(4 * m / share**2).log() / 2) is True

    start = _guess_kl(float(q), m, float(kl) + math.log(2 * math.sqrt(m)) - _log(share))
    return Fraction(least(satisfied, int(start * 10**digits), 0, 10**digits), 10**digits)


def _log(x: Fraction) -> float:
    """About ln x, also where x is too small for a float."""
    return math.log(x.numerator) - math.log(x.denominator)


def _guess_kl(q: float, m: int, cost: float) -> float:
    """About the p above q with ``m · kl(q ‖ p) = cost``."""
    low, high = q, 1.0
    for _ in range(60):
        p = (low + high) / 2
        if not q < p < 1:
            break
        kl = (q * math.log(q / p) if q else 0.0) + ((1 - q) * math.log((1 - q) / (1 - p)) if q < 1 else 0.0)
        low, high = (low, p) if m * kl >= cost else (p, high)
    return high


@dataclass(frozen=True)
class Bound:
    """A bound by its inequality, in k (a Fraction where a rate is asked for), m, δ and p, for k/m < p < 1."""

    slack: Callable[[Fraction, int, Fraction, Fraction], flint.arb]
    """An enclosure of a number that is at least 0 just where the bound confirms p."""
    equal: Callable[[int, int, Fraction, Fraction], bool] = lambda k, m, delta, p: False
    """The decision in rational numbers, for whole k, where no enclosure tells, as both sides may be equal."""
    guess: Callable[[float, int, Fraction], float] = lambda k, m, delta: _guess_kl(k / m, m, -_log(delta))
    """About the least p that is confirmed, from k, m and δ; it decides nothing."""

    def confirms(self, k: Fraction, m: int, delta: Fraction, p: Fraction) -> bool:
        """Decide whether the risk is at most p with failure probability δ; k/m or less is not, and 1 always is."""
        if p == 1 or p * m <= k:
            return p == 1
        answer = decide(lambda: self.slack(k, m, delta, p))
        if answer is None and k.denominator == 1:
            return self.equal(int(k), m, delta, p)
        return answer is True


def relative_entropy(q: Fraction, p: Fraction) -> flint.arb:
    """An enclosure of ``kl(q ‖ p)``, with 0 ln 0 = 0, for 0 < p < 1."""
    terms = [ball(a) * ball(a / b).log() for a, b in ((q, p), (1 - q, 1 - p)) if a]
    return sum(terms, ball(0))


def _hoeffding(k: Fraction, m: int, delta: Fraction, p: Fraction) -> flint.arb:
    return ball(2 * m * (p - k / m) ** 2) + ball(delta).log()


def _kl(k: Fraction, m: int, delta: Fraction, p: Fraction) -> flint.arb:
    return m * relative_entropy(k / m, p) + ball(delta).log()


def _kl_equal(k: int, m: int, delta: Fraction, p: Fraction) -> bool:  # both sides are logarithms of rational numbers
    q = Fraction(k, m)
    return (q / p) ** k * ((1 - q) / (1 - p)) ** (m - k) * delta >= 1


def _clopper_pearson(k: Fraction, m: int, delta: Fraction, p: Fraction) -> flint.arb:
    """``δ − P[Binomial(m, p) ≤ k]``: the sum is its last term times ``₂F₁(1, −k; m − k + 1; −(1 − p)/p)``."""
    assert k.denominator == 1
    n, q = int(k), 1 - p
    chosen = ball(m + 1).lgamma() - ball(n + 1).lgamma() - ball(m - n + 1).lgamma()
    last = (chosen + n * ball(p).log() + (m - n) * ball(q).log()).exp()
    return ball(delta) - last * ball(-q / p).hypgeom_2f1(1, -n, m - n + 1)


def _clopper_pearson_equal(k: int, m: int, delta: Fraction, p: Fraction) -> bool:
    return sum(math.comb(m, i) * p**i * (1 - p) ** (m - i) for i in range(k + 1)) <= delta


def _empirical_bernstein(k: Fraction, m: int, delta: Fraction, p: Fraction) -> flint.arb:
    if m < 2:
        return ball(-1)
    variance, cost = k * (m - k) / (m * (m - 1)), ball(2 / delta).log()
    return ball(p - k / m) - (ball(2 * variance / m) * cost).sqrt() - 7 * cost / (3 * (m - 1))


def _guess_clopper_pearson(k: float, m: int, delta: Fraction) -> float:
    if -_log(delta) >= 600 or k >= m:
        return _guess_kl(k / m, m, -_log(delta))
    return beta_quantile(k + 1, m - k, float(delta))


def beta_quantile(a: float, b: float, tail: float) -> float:
    """About the x that a Beta(a, b) variable exceeds with probability ``tail``, for a and b above 0: in floats."""
    low, high = 0.0, 1.0
    while low < (x := (low + high) / 2) < high:
        near = x * (a + b + 2) < a + 1
        exceeded = 1 - _incomplete_beta(a, b, x) if near else _incomplete_beta(b, a, 1 - x)
        low, high = (x, high) if exceeded > tail else (low, x)
    return x


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """``I_x(a, b)`` for x below about its mean: the continued fraction of DLMF 8.17.22, by Lentz's method."""
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    value, c, d, n = 1.0, 1.0, 0.0, 0
    while n == 0 or abs(c * d - 1) > 1e-14:
        n, m = n + 1, (n + 1) // 2
        factor = m * (b - m) if n % 2 == 0 else -(a + m) * (a + b + m)
        term = factor * x / ((a + n - 1) * (a + n))
        d = 1 / (1 + term * d)
        c = 1 + term / c
        value *= c * d
    return math.exp(logarithm) / (a * value)


BOUNDS = {
    "hoeffding": Bound(_hoeffding),
    "kl": Bound(_kl, _kl_equal),
    "clopper-pearson": Bound(_clopper_pearson, _clopper_pearson_equal, _guess_clopper_pearson),
    "empirical-bernstein": Bound(_empirical_bernstein),
}


def named(bound: str) -> Bound:
    """The bound of this name; raises ``BoundError`` with the nearest name if there is none."""
    check_choice("bound", bound, BOUNDS, BoundError)
    return BOUNDS[bound]
