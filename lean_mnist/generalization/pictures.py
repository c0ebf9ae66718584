"""Charts of what a certified risk depends on: examples, failure probability, and bits that could be chosen.

Every point is the bound itself, rounded up to five digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from lean_mnist.charts import BLUE, GREEN, GREY, ORANGE, Axis, Chart, Picture
from lean_mnist.generalization.bounds import upper_risk
from lean_mnist.generalization.exact import Exact, exact
from lean_mnist.generalization.solve import certified_risk

_BOUNDS = (("hoeffding", ORANGE), ("kl", GREEN), ("clopper-pearson", BLUE))
_DIGITS = 5
_MOST_COUNTED = 100_000  # Clopper–Pearson sums one term an error; with more examples kl can hardly be told from it


def risk_by_examples(errors: int, examples: int, delta: Exact) -> Picture:
    """The certified risk by m, at the error rate that was measured; the dot is the measured m."""
    rate = Fraction(errors, examples)
    chart = _chart(
        f"what more examples would show: {errors:,} errors in {examples:,}, one look, delta = {_said(delta)}",
        Axis("examples of the holdout, m", 100, 1_000_000, logarithmic=True),
        [upper_risk("hoeffding", -(-rate * 100 // 1), 100, delta, _DIGITS), rate],
    )
    for bound, colour in _BOUNDS:
        points = [
            (m, float(upper_risk(bound, min(m, -(-rate * m // 1)), m, delta, _DIGITS)))
            for m in _spaced(100, _MOST_COUNTED if bound == "clopper-pearson" else 1_000_000)
        ]
        chart.line(points, colour)
        chart.explain(colour, bound)
    chart.line([(100, float(rate)), (1_000_000, float(rate))], GREY, dashed=True)
    chart.explain(GREY, "measured error rate")
    if 100 <= examples <= 1_000_000:
        chart.dot((examples, float(upper_risk("clopper-pearson", errors, examples, delta, _DIGITS))), BLUE)
    return chart.picture()


def risk_by_delta(errors: int, examples: int, deltas: Sequence[Exact]) -> Picture:
    """The certified risk by δ; the dots are at ``deltas``."""
    powers = [Fraction(1, 10**power) for power in range(1, 13)]
    least = powers[-1]
    chart = _chart(
        f"what more confidence costs: {errors:,} errors in {examples:,}, one look",
        Axis("failure probability, delta", float(least), 0.1, logarithmic=True),
        [upper_risk("hoeffding", errors, examples, least, _DIGITS), Fraction(errors, examples)],
    )
    for bound, colour in _BOUNDS:
        chart.line([(float(d), float(upper_risk(bound, errors, examples, d, _DIGITS))) for d in powers], colour)
        chart.explain(colour, bound)
    rate = errors / examples
    chart.line([(float(least), rate), (0.1, rate)], GREY, dashed=True)
    chart.explain(GREY, "measured error rate")
    for delta in deltas:
        risk = upper_risk("clopper-pearson", errors, examples, delta, _DIGITS)
        chart.dot((float(exact(delta, "delta")), float(risk)), BLUE)
    return chart.picture()


def risk_by_bits(errors: int, examples: int, delta: Exact, bits: int) -> Picture:
    """The risk certified on the training examples, by the bits that learning could choose; dashed: this network's."""
    chart = Chart(
        f"certified by the {examples:,} examples it learned from: {errors:,} errors, delta = {_said(delta)}",
        Axis("bits of the hypothesis space, B", 100, 10_000_000, logarithmic=True),
        Axis("certified risk", 0, 1, percent=True),
    )
    for bound, colour in _BOUNDS[:2]:
        points, risk = [], Fraction(0)
        for b in _spaced(100, 10**7):
            risk = risk if risk == 1 else certified_risk(bound, errors, examples, delta, b, _DIGITS)
            points.append((b, float(risk)))
        chart.line(points, colour)
        chart.explain(colour, f"{bound}, union over 2^B")
    chart.line([(bits, 0), (bits, 1)], GREY, dashed=True)
    chart.explain(GREY, f"this network: {bits:,} bits")
    return chart.picture()


def _chart(title: str, x: Axis, risks: Sequence[Fraction]) -> Chart:
    return Chart(title, x, Axis("certified risk", 0, min(1.0, max(0.001, 1.1 * float(max(risks)))), percent=True))


def _spaced(low: int, high: int) -> list[int]:
    return sorted({round(value) for value in np.geomspace(low, high, 60)})


def _said(delta: Exact) -> str:
    return f"{float(exact(delta, 'delta')):g}"
