"""What PAC-Bayes training minimises: a bounded loss, and upper bounds on the risk made of it and the divergence.

Shapes: ``risk`` r̂ (the mean bounded loss, from 0 to 1) and ``divergence`` KL(posterior ‖ prior) have one shape, any;
the formulas are elementwise. ``m`` examples; ``K = KL + ln(2√m / δ)``, what a bound pays.

Each of these follows from ``kl(r̂ ‖ r) ≤ K/m`` (Maurer 2004) by an inequality of relative entropy; the certified number
is that bound itself, inverted by :func:`lean_mnist.generalization.bounds.pac_bayes_risk`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from lean_mnist.chainrule.arrays import Array, check_upstream, primitives
from lean_mnist.chainrule.losses import Loss
from lean_mnist.errors import ArgumentError, nearest


def bounded(loss: Loss, ceiling: float) -> Loss:
    """``min(loss, ceiling) / ceiling``, from 0 to 1 for a loss that is not negative.

    Its gradient is the loss's over the ceiling where the loss is below it, and 0 elsewhere, by convention also at it.
    Cross-entropy with a ceiling of ``ln(1/p)`` is that of probabilities clamped at p from below (Pérez-Ortiz et al.,
    JMLR 22, 2021, section 6.1). Raises ``ArgumentError`` unless the ceiling is a finite number above 0.
    """
    if not 0 < ceiling < math.inf:
        raise ArgumentError(f"ceiling: expected a finite number above 0, found {ceiling}")

    def forward(s_BC: Array, labels_B: Array) -> tuple[Array, tuple[Array, ...]]:
        loss_B, tape = loss.forward(s_BC, labels_B)
        p = primitives(loss_B)
        top = p.constant(ceiling, loss_B)
        room_B = top - loss_B
        return p.where_nonpositive(room_B, 1, loss_B / top), (room_B, *tape)

    def backward(tape: tuple[Array, ...], d_loss_B: Array) -> Array:
        room_B, *inner = tape
        check_upstream("d_loss", d_loss_B, room_B.shape)
        p = primitives(room_B)
        return loss.backward(tuple(inner), p.where_nonpositive(room_B, 0, d_loss_B / p.constant(ceiling, room_B)))

    return Loss(f"bounded {loss.name}", forward, backward)


class Objective(NamedTuple):
    """``forward(risk, divergence, m, ln(2√m/δ)) -> (bound, tape)``, ``backward(tape, d_bound) -> (d_risk, d_KL)``."""

    name: str
    forward: Callable[[Array, Array, int, float], tuple[Array, tuple[Array, ...]]]
    backward: Callable[[tuple[Array, ...], Array], tuple[Array, Array]]


def confidence_cost(examples: int, delta: float) -> float:
    """``ln(2√m / δ)``, as a float: for training, where nothing is promised."""
    return math.log(2 * math.sqrt(examples) / delta)


# The quadratic bound (Rivasplata et al., 2019; Pérez-Ortiz et al., 2021, eq. 16), with c = K/(2m):
#     f = (√(r̂ + c) + √c)²;   u = √(r̂ + c), v = √c:   df/dr̂ = (u + v)/u,   df/dc = (u + v)²/(u v),   dc/dKL = 1/(2m).
def quadratic_forward(risk: Array, divergence: Array, m: int, cost: float) -> tuple[Array, tuple[Array, ...]]:
    p = primitives(risk)
    half = p.constant(0.5, risk)
    c = (divergence + p.constant(cost, risk)) / (2 * m)
    u, v = (risk + c) ** half, c**half
    slope = (u + v) / u
    return (u + v) * (u + v), (slope, slope * (u + v) / v / (2 * m))


# The relaxed bound of Thiemann et al. (2017, theorem 3), for any λ in (0, 2) and so for the best of them:
#     f = r̂/(1 − λ/2) + K/(m λ (1 − λ/2)),   λ = 2/(√(2 m r̂/K + 1) + 1).
# At the best λ, df/dλ = 0, so that df/dr̂ = 1/(1 − λ/2) and df/dKL = 1/(m λ (1 − λ/2)).
def lambda_forward(risk: Array, divergence: Array, m: int, cost: float) -> tuple[Array, tuple[Array, ...]]:
    p = primitives(risk)
    paid = divergence + p.constant(cost, risk)
    best = 2 / ((2 * m * risk / paid + 1) ** p.constant(0.5, risk) + 1)
    of_risk = 1 / (1 - best / 2)
    of_divergence = of_risk / (m * best)
    return risk * of_risk + paid * of_divergence, (of_risk, of_divergence)


# McAllester's bound (1999), by Pinsker's inequality:  f = r̂ + √(K/(2m));  df/dKL = 1/(4 m √(K/(2m))).
def classic_forward(risk: Array, divergence: Array, m: int, cost: float) -> tuple[Array, tuple[Array, ...]]:
    p = primitives(risk)
    root = ((divergence + p.constant(cost, risk)) / (2 * m)) ** p.constant(0.5, risk)
    return risk + root, (risk * 0 + 1, 1 / (4 * m * root))


def objective_backward(slopes: tuple[Array, ...], d_bound: Array) -> tuple[Array, Array]:
    """The derivatives that the forward kept, times the upstream gradient."""
    of_risk, of_divergence = slopes
    return of_risk * d_bound, of_divergence * d_bound


OBJECTIVES: dict[str, Objective] = {
    name: Objective(name, forward, objective_backward)
    for name, forward in (
        ("quadratic", quadratic_forward),
        ("lambda", lambda_forward),
        ("classic", classic_forward),
    )
}


def objective_named(name: str) -> Objective:
    """The objective called ``name``; ``ArgumentError`` with the nearest name if there is none."""
    if name not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise ArgumentError(f"objective: expected one of {known}, found {name!r}{nearest(name, OBJECTIVES)}")
    return OBJECTIVES[name]
