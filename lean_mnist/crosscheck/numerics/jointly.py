"""Differences of a large call along lines on which all its inputs move at once, with few evaluations.

Two steps a line are enough where they agree, and the gradient with them, to ``ENOUGH`` of the size of one number. Else
each input is looked at by itself.
"""

import math
from collections.abc import Iterator

import torch

from lean_mnist.crosscheck.comparison import FLOOR_ULPS
from lean_mnist.crosscheck.context import LARGE, Context
from lean_mnist.crosscheck.numerics.differences import SAFETY, balanced, line_through
from lean_mnist.crosscheck.numerics.in_float64 import same_in_float64, why_not_float64
from lean_mnist.crosscheck.numerics.step_sizes import extrapolate, residuals_along
from lean_mnist.crosscheck.subjects.calls import norm

COPIES = 16  # so many times the bytes of inputs and outputs, differences take in memory
STEPS = (-14, -16)
# So that an error of 1e-3 in one number, along a direction in which all have some size, is fifty times as large.
ENOUGH = 2e-5


def agrees_along_lines(ctx: Context, lines: int) -> str:
    """Words for agreement of the gradients in float64 with differences along so many lines; empty if there is none."""
    if LARGE not in ctx.noise:  # the function raises around this point
        return ""
    places = [place for place, i in enumerate(ctx.checked) if ctx.subject.inputs[i].numel()]
    largest, enough = 0.0, ENOUGH / ctx.numbers**0.5
    for number in range(lines):
        own = ctx.gaussian() if number else ctx.base[0]
        # What an output that is not differentiable does is not the backward's affair.
        upstream = [v.double() * moves for v, moves in zip(own, ctx.differentiable, strict=True)]
        gradients = ctx.subject.vjp(upstream, dtype=torch.float64) if number else ctx.in_float64[1]
        weights = balanced(ctx.subject, places, gradients)
        evaluate = None if ctx.smooth is None else ctx.smooth.values
        line = line_through(ctx.subject, places, torch.float64, ctx.generator, upstream, weights, evaluate)
        claimed = [gradients[place] for place in places]
        noise = ctx.noise[LARGE] * math.hypot(*map(norm, upstream))
        start = ctx.in_float64[0] if ctx.smooth is None else None
        slope = extrapolate(residuals_along(line, claimed, noise, start=start, steps=STEPS))
        size = math.hypot(*(norm(u * g) for u, g in zip(line.directions, claimed, strict=True)))
        rounding = FLOOR_ULPS * torch.finfo(torch.float64).eps / 2 * size
        if slope is None or not abs(slope.residual) <= SAFETY * slope.error + rounding <= enough * size:
            return ""
        largest = max(largest, abs(slope.residual) / size if size else 0.0)
    return f"along {lines} lines on which all inputs move, the slope is ⟨u, gradient⟩ to {largest:.0e} of its size"


def same_gradients(ctx: Context) -> bool:
    """True if the gradients in the precision under test are those in float64, up to rounding."""
    if all(dtype == torch.float64 for dtype in ctx.dtypes):
        return True
    return same_in_float64(ctx) and not ctx.differing(ctx.base[1], ctx.in_float64[1], ctx.base[0])


def chunks(ctx: Context) -> Iterator[Context]:
    """So many rows at a time as ``max_memory`` allows, with the gradients in the whole call as the shared ones.

    None where the function is not seen to treat each row by itself, or memory is too small.
    """
    rows = int(ctx.options.max_memory / 5 / (COPIES * ctx.size) * ctx.length)
    if ctx.part is None or any(ctx.subject.inputs[i].shape[:1] != (ctx.length,) for i in ctx.checked):
        return
    for start in range(0, ctx.length, max(rows, 2)):
        chunk = slice(start, start + max(rows, 2))
        there = ctx.rows(torch.arange(ctx.length)[chunk])
        there.base = [v[chunk] for v in ctx.base[0]], [g[chunk] for g in ctx.base[1]]
        there.why_not_float64 = why_not_float64(there)
        yield there
