"""Objectives of PAC-Bayes training: upper bounds on the risk, as functions of a bounded loss and a divergence.

Shapes: ``risk`` r̂ (the mean bounded loss, from 0 to 1) and ``divergence`` KL(posterior ‖ prior) have one shape, any;
the formulas are elementwise. ``m`` examples; ``K = KL + ln(2√m / δ)``, the cost of the bound.

Each bound follows from ``kl(r̂ ‖ r) ≤ K/m`` (Maurer 2004) by an inequality of relative entropy; the certified number
is that bound itself, inverted by :func:`lean_mnist.generalization.bounds.pac_bayes_risk`.
"""

import math
from collections.abc import Callable

from lean_mnist.chainrule.arrays import Array, primitives
from lean_mnist.errors import ArgumentError

Slopes = tuple[Array, Array]


# Cross-entropy of probabilities clamped at p from below (Pérez-Ortiz et al., JMLR 22, 2021, section 6.1) is
# min(loss, c), c = ln(1/p). Of B examples n have a loss below c, of mean ℓ̄; the gradient of the others is 0, by
# convention also at c:   r̂ = (n ℓ̄ + (B − n) c) / (B c),   dr̂/dℓ̄ = n / (B c).
def bounded_risk_forward(mean_below: Array, below: int, examples: int, ceiling: float) -> tuple[Array, Array]:
    """Mean of ``min(loss, ceiling) / ceiling`` over ``examples`` B, and its derivative by ``mean_below``.

    ``mean_below`` is the mean loss ℓ̄ of the ``below`` examples whose loss lies below the ceiling (any number if none
    does). Raises ``ArgumentError`` unless the ceiling is a finite number above 0.
    """
    if not 0 < ceiling < math.inf:
        raise ArgumentError(f"ceiling: expected a finite number above 0, found {ceiling}")
    p = primitives(mean_below)
    unit, top = mean_below * 0 + 1, p.constant(ceiling, mean_below)
    slope = unit * below / (examples * top)
    return mean_below * slope + unit * (examples - below) / examples, slope


def bounded_risk_backward(slope: Array, d_risk: Array) -> Array:
    """Gradient by ``mean_below``."""
    return d_risk * slope


def confidence_cost(examples: int, delta: float) -> float:
    """``ln(2√m / δ)``, rounded to nearest: for training, where nothing is certified."""
    return math.log(2 * math.sqrt(examples) / delta)


# The quadratic bound (Rivasplata et al., 2019; Pérez-Ortiz et al., 2021, eq. 16), with c = K/(2m):
#     f = (√(r̂ + c) + √c)²;   u = √(r̂ + c), v = √c:   df/dr̂ = (u + v)/u,   df/dc = (u + v)²/(u v),   dc/dKL = 1/(2m).
def quadratic_forward(risk: Array, divergence: Array, m: int, cost: float) -> tuple[Array, Slopes]:
    """``(√(r̂ + K/2m) + √(K/2m))²``."""
    p = primitives(risk)
    half = p.constant(0.5, risk)
    c = (divergence + p.constant(cost, risk)) / (2 * m)
    u, v = (risk + c) ** half, c**half
    slope = (u + v) / u
    return (u + v) * (u + v), (slope, slope * (u + v) / v / (2 * m))


# The relaxed bound of Thiemann et al. (2017, theorem 3), for any λ in (0, 2) and so for the best of them:
#     f = r̂/(1 − λ/2) + K/(m λ (1 − λ/2)),   λ = 2/(√(2 m r̂/K + 1) + 1).
# At the best λ, df/dλ = 0, so that df/dr̂ = 1/(1 − λ/2) and df/dKL = 1/(m λ (1 − λ/2)).
def lambda_forward(risk: Array, divergence: Array, m: int, cost: float) -> tuple[Array, Slopes]:
    """``r̂/(1 − λ/2) + K/(m λ (1 − λ/2))`` at the best λ."""
    p = primitives(risk)
    paid = divergence + p.constant(cost, risk)
    best = 2 / ((2 * m * risk / paid + 1) ** p.constant(0.5, risk) + 1)
    of_risk = 1 / (1 - best / 2)
    of_divergence = of_risk / (m * best)
    return risk * of_risk + paid * of_divergence, (of_risk, of_divergence)


# McAllester's bound (1999), by Pinsker's inequality:  f = r̂ + √(K/(2m));  df/dKL = 1/(4 m √(K/(2m))).
def classic_forward(risk: Array, divergence: Array, m: int, cost: float) -> tuple[Array, Slopes]:
    """``r̂ + √(K/2m)``."""
    p = primitives(risk)
    root = ((divergence + p.constant(cost, risk)) / (2 * m)) ** p.constant(0.5, risk)
    return risk + root, (risk * 0 + 1, 1 / (4 * m * root))


def objective_backward(slopes: Slopes, d_bound: Array) -> Slopes:
    """Gradients by risk and divergence; ``slopes`` are the bound's derivatives by them."""
    of_risk, of_divergence = slopes
    return of_risk * d_bound, of_divergence * d_bound


OBJECTIVES: dict[str, Callable[[Array, Array, int, float], tuple[Array, Slopes]]] = {
    "quadratic": quadratic_forward,
    "lambda": lambda_forward,
    "classic": classic_forward,
}
"""By name: ``(risk, divergence, m, ln(2√m/δ)) -> (bound, slopes)``; their backward is :func:`objective_backward`."""
