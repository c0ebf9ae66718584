"""Upper bounds on a risk from a count of errors: k errors in m i.i.d. examples, failing with probability at most δ.

Every bound answers one question, decided by exact arithmetic: does it *confirm* that the risk is at most p? What is
returned is the least decimal that it confirms, so it is rounded outward and never to nearest. Numbers go in as ints,
Fractions or text; floats are refused (:func:`lean_mnist.generalization.exact.exact`). SciPy only guesses where to
look.

| name | confirms that the risk is at most p when | source |
|---|---|---|
| ``hoeffding`` | p ≥ k/m and 2m(p − k/m)² ≥ ln(1/δ) | Hoeffding 1963, theorem 1 (MLCERT's Chernoff bound) |
| ``kl`` | p ≥ k/m and m · kl(k/m ‖ p) ≥ ln(1/δ) | Chernoff 1952; Langford 2005 |
| ``clopper-pearson`` | p > k/m and P[Binomial(m, p) ≤ k] ≤ δ | Clopper and Pearson 1934; Langford 2005 |
| ``empirical-bernstein`` | p ≥ k/m + √(2V ln(2/δ)/m) + 7 ln(2/δ)/(3(m − 1)) | Maurer and Pontil 2009, theorem 4 |

``kl(q ‖ p) = q ln(q/p) + (1 − q) ln((1 − q)/(1 − p))``, and ``V = k(m − k)/(m(m − 1))`` is the sample variance.
For several hypotheses, looks or sides, give the bound its share of δ: :mod:`lean_mnist.generalization.confidence`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from lean_mnist.errors import BoundError, nearest
from lean_mnist.generalization.exact import (
    Exact,
    decide,
    exact,
    least,
    log_bounds,
    power_bounds,
    product_bounds,
)

DIGITS = 12
"""After the point, of every bound that is returned, unless asked for otherwise."""


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
    """Whether ``bound`` shows, with confidence 1 − δ, that the risk is at most ``risk``.

    Raises ``BoundError`` for an unknown bound and for impossible numbers. A risk of 1 is always confirmed.
    """
    k, m = checked_counts(errors, examples)
    return named(bound)(Fraction(k), m, checked_delta(delta), checked_risk(risk))


def upper_risk(bound: str, errors: int, examples: int, delta: Exact, digits: int = DIGITS) -> Fraction:
    """The least decimal with ``digits`` digits that ``bound`` confirms as an upper bound on the risk; at most 1.

    Raises ``BoundError`` for an unknown bound and for impossible numbers.
    """
    k, m = checked_counts(errors, examples)
    return _least_risk(named(bound), Fraction(k), m, checked_delta(delta), digits)


def lower_risk(bound: str, errors: int, examples: int, delta: Exact, digits: int = DIGITS) -> Fraction:
    """The greatest decimal that ``bound`` confirms as a lower bound on the risk: the upper bound on the accuracy's.

    That is ``1 − upper_risk(bound, m − k, m, δ)``, since every bound here treats errors and successes alike.
    """
    k, m = checked_counts(errors, examples)
    return 1 - upper_risk(bound, m - k, m, delta, digits)


def risk_interval(
    bound: str, errors: int, examples: int, delta: Exact, digits: int = DIGITS
) -> tuple[Fraction, Fraction]:
    """Two-sided: an interval that holds the risk with confidence 1 − δ, each side with δ/2."""
    half = checked_delta(delta) / 2
    return lower_risk(bound, errors, examples, half, digits), upper_risk(bound, errors, examples, half, digits)


def pac_bayes_risk(
    empirical_risk: Exact, examples: int, divergence: Exact, delta: Exact, digits: int = DIGITS
) -> Fraction:
    """PAC-Bayes-kl: the least decimal p ≥ q̂ with ``m · kl(q̂ ‖ p) ≥ KL + ln(2√m / δ)``, an upper bound on the risk.

    Args: ``empirical_risk`` q̂, the expected empirical risk of the posterior, or an upper bound on it that is paid for
    elsewhere (:func:`monte_carlo_risk`); ``examples`` m; ``divergence`` KL(posterior ‖ prior) in nats, or an upper
    bound on it; the prior must not depend on these examples.
    Raises ``BoundError``. Source: Seeger 2002; the constant is Maurer's (2004), for m ≥ 8 as he proves it and for m
    from 1 to 7 by calculation (Germain et al. 2015), which a test of ours repeats exactly.
    """
    _, m = checked_counts(0, examples)
    q, kl = checked_risk(empirical_risk, "empirical risk"), exact(divergence, "divergence")
    if kl < 0:
        raise BoundError(f"divergence: expected a Kullback–Leibler divergence of at least 0, found {divergence}")
    share = checked_delta(delta)

    def satisfied(n: int) -> bool:
        p = Fraction(n, 10**digits)
        if p == 1 or p < q:
            return p == 1

        def slack(bits: int) -> tuple[Fraction, Fraction]:
            # ln(2√m/δ) = (ln 4m − 2 ln δ)/2
            root_low, root_high = log_bounds(4 * m / share**2, bits)
            low, high = _divergence(q, p, bits)
            budget = kl * 2**bits
            return m * low - budget - Fraction(root_high, 2), m * high - budget - Fraction(root_low, 2)

        return decide(slack) is True

    start = _guess_kl(float(q), m, float(kl) + math.log(2 * math.sqrt(m)) - _log(share))
    return Fraction(least(satisfied, int(start * 10**digits), 0, 10**digits), 10**digits)


def monte_carlo_risk(errors: int, draws: int, delta: Exact, digits: int = DIGITS) -> Fraction:
    """An upper bound on the empirical risk of a posterior from ``errors`` in ``draws`` of (weights, example) pairs.

    The pairs are drawn independently, the examples with equal chances from the training sample. Clopper and Pearson's
    bound with its own share of δ, which the whole statement has to pay as well (Langford and Caruana 2001).
    """
    return upper_risk("clopper-pearson", errors, draws, delta, digits)


# What each bound confirms. Arguments: k (a Fraction where a rate is asked for), m, δ, p.
Decision = Callable[[Fraction, int, Fraction, Fraction], bool]


def _hoeffding(k: Fraction, m: int, delta: Fraction, p: Fraction) -> bool:
    margin = p - k / m
    if p == 1 or margin <= 0:
        return p == 1

    def slack(bits: int) -> tuple[Fraction, Fraction]:
        low, high = log_bounds(1 / delta, bits)
        gain = 2 * m * margin**2 * 2**bits
        return gain - high, gain - low

    return decide(slack) is True  # ln δ is irrational, so that enough bits always tell


def _kl(k: Fraction, m: int, delta: Fraction, p: Fraction) -> bool:
    q = k / m
    if p == 1 or p <= q:
        return p == 1

    def slack(bits: int) -> tuple[Fraction, Fraction]:
        low, high = _divergence(q, p, bits)
        cost_low, cost_high = log_bounds(1 / delta, bits)
        return m * low - cost_high, m * high - cost_low

    answer = decide(slack)
    if answer is None and k.denominator == 1:  # equal, perhaps: then both sides are logarithms of the same rational
        return (q / p) ** int(k) * ((1 - q) / (1 - p)) ** (m - int(k)) * delta >= 1
    return answer is True


def _clopper_pearson(k: Fraction, m: int, delta: Fraction, p: Fraction) -> bool:
    assert k.denominator == 1
    errors = int(k)
    if p == 1 or p * m <= errors:  # below k/m only a confidence under one half could confirm it
        return p == 1

    def slack(bits: int) -> tuple[int, int]:
        low, high, exponent = binomial_tail(errors, m, p, bits)
        left, right = delta.numerator << max(0, -exponent), delta.denominator << max(0, exponent)
        return left - right * high, left - right * low

    answer = decide(slack)
    if answer is None:
        answer = sum(math.comb(m, i) * p**i * (1 - p) ** (m - i) for i in range(errors + 1)) <= delta
    return answer


def _empirical_bernstein(k: Fraction, m: int, delta: Fraction, p: Fraction) -> bool:
    if p == 1 or m < 2:
        return p == 1
    variance = k * (m - k) / (m * (m - 1))

    def linear(bits: int) -> tuple[Fraction, Fraction]:
        low, high = log_bounds(2 / delta, bits)
        left = (p - k / m) * 2**bits
        return left - Fraction(7 * high, 3 * (m - 1)), left - Fraction(7 * low, 3 * (m - 1))

    def squares(bits: int) -> tuple[Fraction, Fraction]:  # both sides of x ≥ √y, with x ≥ 0
        low, high = log_bounds(2 / delta, bits)
        x_low, x_high = linear(bits)
        y_low, y_high = (2 * variance / m * value * 2**bits for value in (low, high))
        return max(x_low, Fraction(0)) ** 2 - y_high, x_high**2 - y_low

    return decide(linear) is True and (variance == 0 or decide(squares) is True)


BOUNDS: dict[str, Decision] = {
    "hoeffding": _hoeffding,
    "kl": _kl,
    "clopper-pearson": _clopper_pearson,
    "empirical-bernstein": _empirical_bernstein,
}


def named(bound: str) -> Decision:
    """The decision of the bound called ``bound``; raises ``BoundError`` with the nearest name if there is none."""
    if bound not in BOUNDS:
        raise BoundError(f"bound: expected one of {', '.join(BOUNDS)}, found {bound!r}{nearest(bound, BOUNDS)}")
    return BOUNDS[bound]


def binomial_tail(k: int, m: int, p: Fraction, bits: int) -> tuple[int, int, int]:
    """``low · 2^e ≤ P[Binomial(m, p) ≤ k] ≤ high · 2^e`` as ``(low, high, e)``, for 0 < p < 1 and 0 ≤ k ≤ m.

    The last term times ``1 + r_k (1 + r_{k−1} (1 + …))`` with ``r_i = i(1 − p)/((m − i + 1)p)``, in integers of about
    ``bits`` bits, the lower end rounded down and the upper end up at every step.
    """
    work = bits + 2 * m.bit_length() + 8
    up, down = p.numerator, p.denominator - p.numerator  # p : 1 − p
    low = high = term_low = term_high = 1 << work
    for i in range(k, 0, -1):
        n, d = i * down, (m - i + 1) * up
        term_low, term_high = term_low * n // d, -(-term_high * n // d)
        low, high = low + term_low, high + term_high
        if term_high <= 1 and n <= d:  # every term after this one is smaller still
            high += i
            break
    last = product_bounds(power_bounds(p, k, work), power_bounds(1 - p, m - k, work), work)
    count = math.comb(m, k)
    return low * last[0] * count, high * last[1] * count, last[2] - work


def _divergence(q: Fraction, p: Fraction, bits: int) -> tuple[Fraction, Fraction]:
    """``low ≤ 2^bits · kl(q ‖ p) ≤ high`` for 0 < p < 1."""
    low = high = Fraction(0)
    for share, ratio in ((q, q / p), (1 - q, (1 - q) / (1 - p))):
        if share:
            log_low, log_high = log_bounds(ratio, bits)
            low, high = low + share * log_low, high + share * log_high
    return low, high


def _least_risk(decision: Decision, k: Fraction, m: int, delta: Fraction, digits: int) -> Fraction:
    if not 1 <= digits <= 100:
        raise BoundError(f"digits: expected from 1 to 100, found {digits}")
    scale = 10**digits
    start = int(_guess(decision, float(k), m, delta) * scale)
    low = -(-k * scale // m)  # no bound confirms less than what was measured
    return Fraction(least(lambda n: decision(k, m, delta, Fraction(n, scale)), start, int(low), scale), scale)


def _log(x: Fraction) -> float:
    """About ln x, also where x is too small for a float."""
    return math.log(x.numerator) - math.log(x.denominator)


def _guess(decision: Decision, k: float, m: int, delta: Fraction) -> float:
    """Where to start looking: a float near the answer, or not so near; it decides nothing."""
    cost = -_log(delta)
    if decision is _hoeffding:
        return min(1.0, k / m + math.sqrt(cost / (2 * m)))
    if decision is _empirical_bernstein and m > 1:
        cost += math.log(2)
        return min(1.0, k / m + math.sqrt(2 * k * (m - k) / m**3 * cost) + 7 * cost / (3 * (m - 1)))
    if decision is _clopper_pearson and cost < 600 and k < m:
        from scipy.special import betainccinv

        return float(betainccinv(k + 1, m - k, float(delta)))
    return _guess_kl(k / m, m, cost)


def _guess_kl(q: float, m: int, cost: float) -> float:
    low, high = q, 1.0
    for _ in range(60):
        p = (low + high) / 2
        if not q < p < 1:
            break
        kl = (q * math.log(q / p) if q else 0.0) + ((1 - q) * math.log((1 - q) / (1 - p)) if q < 1 else 0.0)
        low, high = (low, p) if m * kl >= cost else (p, high)
    return high
