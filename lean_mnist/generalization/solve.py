"""Solving a bound for ε, δ, m, B or the accuracy, given the others: to plan how much data or how many bits it takes.

The claim: with k errors in m examples, a hypothesis out of 2^B chosen on those examples, and failure probability δ, the
risk is at most ``k/m + ε``. B = 0 is a holdout; else each hypothesis gets ``δ · 2^−B`` (MLCERT's main bound with
``hoeffding``: ``ε = √((B ln 2 + ln(1/δ)) / 2m)``). Every answer is verified: the next better one does not hold.
"""

import math
from fractions import Fraction

from lean_mnist.errors import BoundError
from lean_mnist.generalization import bounds
from lean_mnist.generalization.bounds import DIGITS, checked_counts, checked_delta, checked_risk, named
from lean_mnist.generalization.confidence import union
from lean_mnist.generalization.exact import Exact, least

_SIGNIFICANT = 12
_MOST_EXAMPLES = 10**12


def certified_risk(
    bound: str, errors: int, examples: int, delta: Exact, bits: int = 0, digits: int = DIGITS
) -> Fraction:
    """The least decimal risk that the bound confirms; 1 where it says nothing."""
    return bounds.upper_risk(bound, errors, examples, union(delta, bits), digits)


def epsilon(bound: str, errors: int, examples: int, delta: Exact, bits: int = 0) -> Fraction:
    """The least decimal ε such that the risk is at most ``k/m + ε``; for ``hoeffding`` it depends on no count.

    May pass 1, where the bound is vacuous, for ``hoeffding``; the others stop where the risk is 1.
    """
    k, m = checked_counts(errors, examples)
    share, scale = union(delta, bits), 10**DIGITS
    if bound != "hoeffding":
        margin = certified_risk(bound, k, m, delta, bits, DIGITS + 2) - Fraction(k, m)
        return Fraction(-(-margin * scale // 1), scale)
    start = math.sqrt((math.log(share.denominator) - math.log(share.numerator)) / (2 * m))
    # A margin of s·x at m examples confirms what x at m·s² does, so that margins above 1 can be asked for as well.
    s = int(start) + 2
    confirms = bounds.BOUNDS[bound].confirms
    found = least(
        lambda n: confirms(Fraction(0), m * s * s, share, Fraction(n, scale * s)),
        int(start * scale),
        1,
        scale * (s - 1),
    )
    return Fraction(found, scale)


def least_delta(bound: str, errors: int, examples: int, risk: Exact, bits: int = 0) -> Fraction:
    """The least δ, to twelve significant digits rounded up, at which the bound confirms ``risk``; 1 if none does."""
    k, m = checked_counts(errors, examples)
    p = checked_risk(risk)
    confirms = named(bound).confirms

    def holds(n: int, digits: int) -> bool:
        """Decide if ``n / 10^digits`` is a δ at which the bound confirms the risk."""
        share = Fraction(n, 10**digits)
        return share >= 1 or confirms(Fraction(k), m, union(share, bits), p)

    if p == 1 or not holds(10**_SIGNIFICANT - 1, _SIGNIFICANT):
        return Fraction(0) if p == 1 else Fraction(1)
    # Where the first significant digit stands.
    zeros = least(lambda n: not holds(1, n), 1, 1, None) - 1
    digits = zeros + _SIGNIFICANT
    return Fraction(least(lambda n: holds(n, digits), 10**_SIGNIFICANT, 1, 10**digits), 10**digits)


def least_examples(bound: str, error_rate: Exact, epsilon: Exact, delta: Exact, bits: int = 0) -> int:
    """An m at which an error rate of ``error_rate`` confirms ``error_rate + ε``, while m − 1 does not.

    For ``clopper-pearson``, which counts, ``k = ⌊error_rate · m⌋``; a jump of k may let a smaller m hold as well.
    Raises ``BoundError`` where ``ε`` is not above 0, and where even 10¹² examples do not suffice.
    """
    rate, margin = checked_risk(error_rate, "error rate"), checked_risk(epsilon, "epsilon")
    share, confirms = union(delta, bits), named(bound).confirms
    if margin == 0:
        raise BoundError("epsilon: expected a number above 0 and at most 1, found 0; no number of examples shows that")
    p = min(Fraction(1), rate + margin)
    counts = bound == "clopper-pearson"

    def holds(m: int) -> bool:
        """Decide if m examples confirm it; raises ``BoundError`` for too many."""
        if m > _MOST_EXAMPLES:
            raise BoundError(f"epsilon: {epsilon} would take more than {_MOST_EXAMPLES:,} examples")
        return confirms(Fraction(rate * m // 1) if counts else rate * m, m, share, p)

    cost = math.log(share.denominator) - math.log(share.numerator)
    start = min(_MOST_EXAMPLES, int(cost / (2 * float(margin) ** 2)) + 1)
    if counts:  # never needs more than kl, whose number is found at little cost
        start = least_examples("kl", rate, margin, delta, bits)
    return least(holds, start, 1, None)


def most_bits(bound: str, errors: int, examples: int, delta: Exact, risk: Exact) -> int:
    """The largest B for which the bound still confirms ``risk``; raises ``BoundError`` if not even B = 0 does."""
    k, m = checked_counts(errors, examples)
    p, share, confirms = checked_risk(risk), checked_delta(delta), named(bound).confirms
    if not confirms(Fraction(k), m, share, p):
        raise BoundError(f"risk: {risk} is not confirmed at delta {delta} even for a single hypothesis")
    if p == 1:
        raise BoundError("risk: expected a number below 1, found 1, which holds for any number of bits")
    return least(lambda bits: not confirms(Fraction(k), m, union(share, bits), p), 1, 1, None) - 1


def most_errors(bound: str, examples: int, delta: Exact, risk: Exact, bits: int = 0) -> int:
    """The largest k that still confirms ``risk``; the least accuracy needed is ``1 − k/m``.

    Raises ``BoundError`` if not even k = 0 does.
    """
    _, m = checked_counts(0, examples)
    p, share, confirms = checked_risk(risk), union(delta, bits), named(bound).confirms
    if not confirms(Fraction(0), m, share, p):
        raise BoundError(f"risk: {risk} is not confirmed at delta {delta} by {m} examples even without an error")
    start = int(p * m)
    return least(lambda k: not confirms(Fraction(k), m, share, p), start, 1, m + 1) - 1
