"""Kinks, where a function has no derivative: points at which either side's slope is a right answer.

It excuses a difference only as far as the slopes on its two sides differ, and if there is none away from it.
"""

import itertools
import math
from collections.abc import Sequence

import torch

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.numerics.reference_outputs import reference_gradients
from lean_mnist.crosscheck.numerics.step_sizes import NOISE_MARGIN, Residual
from lean_mnist.crosscheck.perturbation import perturbed_inputs
from lean_mnist.crosscheck.subjects.calls import Subject, Upstream
from lean_mnist.crosscheck.subjects.numbers import norm, random_direction

# A kink explains a difference from the reference if, within this many units of rounding of the point, the reference's
# own gradient changes by at least this share of it, and at one of so many perturbed points there is no difference.
UNITS, SHARE, POINTS = 16.0, 0.2, 3
TINY_STEP = 2.0**-15
RATIO = 0.5  # of p − m at one step and the next larger: 1/4 where smooth, 1 at a kink


def at_a_kink(ctx: Context, place: int, upstream: Upstream, error: float) -> bool:
    """True if a gradient differs from the reference's by ``error`` only because the point is within rounding of a kink.

    Two things must hold. The reference's gradient jumps there: within ``UNITS`` units of rounding it changes by a
    fair share of ``error``. And at a perturbed point the function agrees with the reference.
    """
    assert ctx.gradient_reference is not None
    there, tried = ctx.gradient_reference, 0
    while math.isfinite(error) and tried < POINTS and _jumps(ctx, there, place, upstream, error):
        there, tried = ctx.gradient_reference.at(ctx.subject.moved(ctx.generator, 1e-3)), tried + 1
        values = reference_gradients(there, upstream, ctx.generator, tolerance=ctx.options.tolerance)
        ours = ctx.subject.vjp(upstream, there.inputs)[place]
        if values.compare(place, "", ours).passed:
            return True
        error = norm(ours.double() - values.exact[place])
    return False


def _jumps(ctx: Context, reference: Subject, place: int, upstream: Upstream, error: float) -> bool:
    middle, largest = reference.vjp(upstream, dtype=torch.float64)[place], 0.0
    for _ in range(4):
        inputs = perturbed_inputs(reference, ctx.generator, UNITS * ctx.unit)
        for i in reference.checked:  # a relative step leaves zeros where they are, and zero is where kinks are
            x = inputs[i]
            step = UNITS * ctx.unit * random_direction(x, ctx.generator)
            inputs[i] = (x.double() + (x == 0) * step).to(x.dtype)
        largest = max(largest, norm(reference.vjp(upstream, inputs, dtype=torch.float64)[place] - middle))
    return largest >= SHARE * error


def explained_by_kink(residuals: Sequence[Residual], unexplained: float | None) -> bool:
    """True if the slopes on both sides differ enough to explain ``unexplained``, at the smallest steps that show it.

    If it is ``None``, whether they explain what the slope on one side alone is off by. A function that jumps at
    the point, so that its difference does not fall with the step at all, is a kink as well.
    """
    last = residuals[-3:]
    if len(last) == 3 and last[-1].remainder > max(0.3 * last[0].remainder, 10 * last[-1].h * last[-1].noise):
        return True
    usable = []
    for larger, residual in itertools.pairwise(residuals):
        size = max(abs(residual.p), abs(residual.m)) if unexplained is None else abs(unexplained)
        if 5 * NOISE_MARGIN * residual.noise < size:
            # At tiny steps a smooth function's jump falls with the step, and what stays is a kink; several kinks may
            # cancel in it almost to nothing. At larger ones a jump must be large to count.
            share = 0.0 if residual.h < TINY_STEP else 0.3
            stays = residual.jump > RATIO * larger.jump and residual.jump > 5 * NOISE_MARGIN * residual.noise
            usable.append(stays and residual.jump >= share * size)
    return any(usable[-3:])


def kink_within(residuals: Sequence[Residual], largest: float) -> bool:
    """True if, at some step up to ``largest``, the slopes on both sides differ by more than a second derivative can."""
    return any(
        larger.h <= largest and smaller.jump > max(10 * NOISE_MARGIN * smaller.noise, RATIO * larger.jump)
        for larger, smaller in itertools.pairwise(residuals)
    )
