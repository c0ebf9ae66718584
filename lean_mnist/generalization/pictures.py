"""Charts of what a certified risk depends on: examples, failure probability, and bits that could be chosen.

Every point is the bound itself, rounded up to five digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from lean_mnist import figures
from lean_mnist.figures import BLUE, GREEN, GREY, ORANGE, Picture
from lean_mnist.generalization.bounds import upper_risk
from lean_mnist.generalization.exact import Exact, exact
from lean_mnist.generalization.solve import certified_risk

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BOUNDS = (("hoeffding", ORANGE), ("kl", GREEN), ("clopper-pearson", BLUE))
_DIGITS = 5
_MOST_COUNTED = 100_000  # Clopper–Pearson sums one term an error; with more examples kl can hardly be told from it


def risk_by_examples(errors: int, examples: int, delta: Exact) -> Picture:
    """Certified risk by m, at the error rate that was measured; the dot is the measured m."""
    rate = Fraction(errors, examples)
    title = f"what more examples would show: {errors:,} errors in {examples:,}, one look, δ = {_said(delta)}"
    axes = _axes(title, "examples of the holdout, m", upper_risk("hoeffding", -(-rate * 100 // 1), 100, delta, _DIGITS))
    for bound, colour in _BOUNDS:
        sizes = _spaced(100, _MOST_COUNTED if bound == "clopper-pearson" else 1_000_000)
        risks = [float(upper_risk(bound, min(m, -(-rate * m // 1)), m, delta, _DIGITS)) for m in sizes]
        axes.plot(sizes, risks, color=colour, label=bound)
    axes.axhline(float(rate), linestyle="--", color=GREY, label="measured error rate")
    if 100 <= examples <= 1_000_000:
        axes.plot(examples, float(upper_risk("clopper-pearson", errors, examples, delta, _DIGITS)), "o", color=BLUE)
    return figures.picture(axes)


def risk_by_delta(errors: int, examples: int, deltas: Sequence[Exact]) -> Picture:
    """Certified risk by δ; the dots are at ``deltas``."""
    powers = [Fraction(1, 10**power) for power in range(1, 13)]
    title = f"what more confidence costs: {errors:,} errors in {examples:,}, one look"
    axes = _axes(title, "failure probability, δ", upper_risk("hoeffding", errors, examples, powers[-1], _DIGITS))
    for bound, colour in _BOUNDS:
        risks = [float(upper_risk(bound, errors, examples, d, _DIGITS)) for d in powers]
        axes.plot([float(d) for d in powers], risks, color=colour, label=bound)
    axes.axhline(errors / examples, linestyle="--", color=GREY, label="measured error rate")
    risks = [float(upper_risk("clopper-pearson", errors, examples, delta, _DIGITS)) for delta in deltas]
    axes.plot([float(exact(delta, "delta")) for delta in deltas], risks, "o", color=BLUE)
    return figures.picture(axes)


def risk_by_bits(errors: int, examples: int, delta: Exact, bits: int) -> Picture:
    """Risk certified on the training examples, by the bits that learning could choose; dashed: this network's."""
    title = f"certified by the {examples:,} examples it learned from: {errors:,} errors, δ = {_said(delta)}"
    axes = _axes(title, "bits of the hypothesis space, B", Fraction(1))
    sizes = _spaced(100, 10**7)
    for bound, colour in _BOUNDS[:2]:
        risks = [Fraction(0)]
        for b in sizes:
            risks.append(Fraction(1) if risks[-1] == 1 else certified_risk(bound, errors, examples, delta, b, _DIGITS))
        axes.plot(sizes, list(map(float, risks[1:])), color=colour, label=f"{bound}, union over 2^B")
    axes.axvline(bits, linestyle="--", color=GREY, label=f"this network: {bits:,} bits")
    return figures.picture(axes)


def _axes(title: str, x_label: str, highest: Fraction) -> Axes:
    """Certified risk, up to somewhat more than ``highest``, over a logarithmic axis."""
    axes = figures.axes(title, x_label, "certified risk")
    axes.set(xscale="log", ylim=(0, min(1.0, max(0.001, 1.1 * float(highest)))))
    return axes


def _spaced(low: int, high: int) -> list[int]:
    return sorted({round(value) for value in np.geomspace(low, high, 60)})


def _said(delta: Exact) -> str:
    return f"{float(exact(delta, 'delta')):g}"
