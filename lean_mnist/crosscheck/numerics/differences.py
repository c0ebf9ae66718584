"""The oracles that need no reference: adaptive finite differences and the Taylor test.

They ask whether the backward is the derivative of the function's *own* forward. Differences are taken in float64 where
the function takes it, for the gradient in float64 and for the gradient in the precision under test; else in its own
precision, with the honest (larger) error that this has.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lean_mnist.crosscheck.calls import CallFailed, Subject, dot, in_dtype, norm, normal, root_mean_square
from lean_mnist.crosscheck.context import FLOOR_ULPS, SCATTER_CALLS, SCATTER_FACTOR, Context
from lean_mnist.crosscheck.numerics import step_sizes as ladders
from lean_mnist.crosscheck.numerics.perturbation import jittered_vjp, rounded_anew
from lean_mnist.crosscheck.report import Finding, failed, kink, not_applicable, passed

DIFFERENCES = "finite differences"
TAYLOR = "Taylor test"
SAFETY = 5.0  # times a difference's own error estimate
# Above this, relative to its outputs, a function given float64 computes in a lower precision on the way.
FLOAT64_NOISE = 1e-13
UNTOLD = 0.1  # a tolerance above this share of the slope's size tells nothing
MOVES, MOVE = 3, 0.02  # how often a point at a kink is moved, and by how much of its size


@dataclass(frozen=True)
class Outcome:
    """Of differences along one line: what the two tests say of the gradient, each with its words."""

    slope: str  # "passed", "failed", "kink", "untold"
    slope_text: str
    taylor: str
    taylor_text: str


def judge(
    line: ladders.Line,
    gradient: Sequence[Tensor],
    floor: float,
    scatter: Callable[[], float],
    exponents: tuple[int, int],
    noise: float,
    enough: float = 0.0,
) -> Outcome:
    """Hold ``⟨u, gradient⟩`` against the slope of ``φ`` along ``line``.

    ``floor`` is the least that rounding of ``⟨u, gradient⟩`` may be; where that does not explain a difference, how far
    it is seen to ``scatter`` is added. No more steps are taken once the slope is known to ``enough``.
    """
    if not math.isfinite(dot(line.directions, gradient)):
        return Outcome("failed", "the gradient is not finite", "failed", "the gradient is not finite")
    rungs = ladders.climb(line, gradient, noise, exponents, enough)
    if ladders.extrapolate(rungs) is None:
        return Outcome("untold", "the function is not finite around this point", "untold", "likewise")

    @functools.cache
    def other() -> ladders.Slope | None:
        """Once more with other steps: an estimate that was too sure of itself is unlikely to be so twice."""
        again = ladders.Line(line.evaluate, line.points, [0.71 * u for u in line.directions], line.upstream)
        return ladders.extrapolate(ladders.climb(again, gradient, noise, exponents))

    outcome = _verdict(line, gradient, rungs, floor, other)
    if outcome.slope in ("passed", "untold") and outcome.taylor == "passed":
        return outcome
    return _verdict(line, gradient, rungs, floor + SCATTER_FACTOR * scatter(), other)


def _verdict(
    line: ladders.Line,
    gradient: Sequence[Tensor],
    rungs: Sequence[ladders.Rung],
    rounding: float,
    other: Callable[[], ladders.Slope | None],
) -> Outcome:
    slope = ladders.extrapolate(rungs)
    assert slope is not None
    said = dot(line.directions, gradient)
    size = sum(norm(u * g.double()) ** 2 for u, g in zip(line.directions, gradient, strict=True)) ** 0.5
    tolerance = SAFETY * slope.error + rounding
    found = said + slope.residual
    text = f"slope {found:.9g}, gradient {said:.9g} (error estimate {tolerance:.2e})"
    verdict = "passed"
    if not abs(slope.residual) <= tolerance:
        second = other()
        denied = second is None or abs(second.residual) > SAFETY * second.error + rounding
        verdict = "failed" if denied else "passed"
    elif tolerance > UNTOLD * max(size, abs(found)) > 0:
        verdict, text = "untold", f"too noisy to tell: {text}"
    taylor, taylor_text = _taylor(rungs, rounding)
    unexplained = slope.residual if verdict == "failed" else None
    if "failed" in (verdict, taylor) and ladders.explained_by_kink(rungs, unexplained):
        text = f"the slopes on both sides differ: {text}"
        return Outcome("kink" if verdict == "failed" else verdict, text, "kink" if taylor == "failed" else taylor, text)
    return Outcome(verdict, text, taylor, taylor_text)


def _taylor(rungs: Sequence[ladders.Rung], rounding: float) -> tuple[str, str]:
    rates = ladders.taylor_rate(rungs, rounding)
    if rates is None:
        return "passed", "the remainder is below the noise"
    text = f"the remainder falls with rate {rates[1]:.2f}"
    # A wrong gradient leaves a remainder of rate 1, and goes on doing so.
    return ("failed", f"{text}, expected 2") if all(0.8 < rate < 1.3 for rate in rates) else ("passed", text)


def finite_differences(ctx: Context) -> list[Finding]:
    """Differences of the function along random directions, one input at a time, and the Taylor test."""
    findings: list[Finding] = []
    in64 = not ctx.float64
    own = ctx.dtypes[0]
    runs = [(torch.float64, torch.float64)] if in64 else []
    # With a reference, the comparison says more of the gradient in the precision under test.
    if own != torch.float64 and (ctx.reference is None or not in64):
        runs.append((own, torch.float64 if in64 and _same_in_float64(ctx) else own))
    for precision, differences_in in runs:
        probes = ctx.probes if precision == torch.float64 or not in64 else 1
        for place in range(len(ctx.checked)):
            findings += _one_input(ctx, place, precision, differences_in, probes)
    return findings


def _same_in_float64(ctx: Context) -> bool:
    """Whether float64 takes the same way: a Function may choose another formula by the precision of its input."""
    outputs = ctx.subject.call(dtype=torch.float64).outputs
    pairs = list(zip(outputs, ctx.outputs, strict=False))
    return len(outputs) == len(ctx.outputs) and all(
        norm(a - b.double()) <= 1e3 * ctx.unit * (norm(a) + a.numel() ** 0.5) for a, b in pairs
    )


def _one_input(
    ctx: Context, place: int, precision: torch.dtype, differences_in: torch.dtype, probes: int
) -> list[Finding]:
    name, i = ctx.name(place), ctx.checked[place]
    if ctx.subject.inputs[i].numel() == 0:
        return []
    words = str(precision).removeprefix("torch.")
    outcomes = []
    for _ in range(probes):
        outcome = along_one_input(ctx, place, precision, differences_in, ctx.subject.inputs)
        if "kink" in (outcome.slope, outcome.taylor):
            ctx.kinks.add(place)
            outcome = _moved(ctx, place, precision, differences_in, outcome)
        outcomes.append(outcome)
        if outcome.slope == outcome.taylor == "failed":
            break
    rules = [(DIFFERENCES, [(o.slope, o.slope_text) for o in outcomes])]
    if differences_in == precision:
        rules.append((TAYLOR, [(o.taylor, o.taylor_text) for o in outcomes]))
    findings = []
    for rule, verdicts in rules:
        for wanted, make in (("failed", failed), ("kink", kink), ("passed", passed), ("untold", not_applicable)):
            texts = [text for verdict, text in verdicts if verdict == wanted]
            if texts:
                findings.append(make(rule, f"{texts[0]}, in {words}", name))
                break
    return findings


def _moved(ctx: Context, place: int, precision: torch.dtype, differences_in: torch.dtype, first: Outcome) -> Outcome:
    """A point at a kink is moved aside: a failure there is one, and agreement there leaves it at a kink here."""
    for _ in range(MOVES):
        aside = ctx.subject.moved(ctx.generator, MOVE, differences_in)
        outcome = along_one_input(ctx, place, precision, differences_in, aside)
        if "failed" in (outcome.slope, outcome.taylor):
            return outcome
        if outcome.slope == "passed":
            text = f"{first.slope_text}; aside of it: {outcome.slope_text}"
            return Outcome("kink", text, "kink" if first.taylor == "kink" else first.taylor, text)
    return first


def along_one_input(
    ctx: Context, place: int, precision: torch.dtype, differences_in: torch.dtype, inputs: Sequence[object]
) -> Outcome:
    """Judge the gradient of one input, computed in ``precision``, by differences taken in ``differences_in``."""
    subject = Subject(ctx.subject.function, "function", list(inputs), ctx.checked, ctx.subject.seed, ctx.subject.clones)
    i = ctx.checked[place]
    own = None if precision != torch.float64 else torch.float64
    # What an output that is not differentiable does is not the backward's affair.
    upstream = [
        v.to(torch.float64) * differentiable
        for v, differentiable in zip(ctx.gaussian(), ctx.differentiable, strict=True)
        if v is not None
    ]
    try:
        if own is None:
            subject.inputs = [
                x.to(y.dtype) if isinstance(x, Tensor) else x
                for x, y in zip(subject.inputs, ctx.subject.inputs, strict=True)
            ]
        gradient = subject.vjp(_to(upstream, ctx, own), dtype=own)[place].detach()
        x = subject.inputs[i].detach().to(differences_in)
        line = ladders.Line(
            _evaluate(subject, i, differences_in),
            [x],
            [root_mean_square(x) * normal(x.shape, ctx.generator, x.device)],
            upstream,
        )
        weight = sum(norm(v) ** 2 for v in upstream) ** 0.5
        key = (place, differences_in)
        if key not in ctx.noise:
            ctx.noise[key] = ladders.noise_of(line, ladders.SPACINGS[differences_in]) / max(weight, 1e-300)
        unit = torch.finfo(gradient.dtype).eps / 2 if own is not None else ctx.unit
        floor = FLOOR_ULPS * unit * norm(line.directions[0] * gradient.double())

        def scatter() -> float:
            return _scatter_along(ctx, subject, place, upstream, own, line.directions[0], gradient, unit)

        noise = ctx.noise[key] * weight
        return judge(line, [gradient], floor, scatter, ladders.STEPS[differences_in], noise)
    except CallFailed as failure:
        return Outcome("untold", f"around this point its {failure}", "untold", f"around this point its {failure}")


def _scatter_along(
    ctx: Context,
    subject: Subject,
    place: int,
    upstream: Sequence[Tensor],
    dtype: torch.dtype | None,
    direction: Tensor,
    gradient: Tensor,
    unit: float,
) -> float:
    """How far ``⟨u, g⟩`` scatters when every rounding is drawn anew."""
    scatter = 0.0
    for _ in range(SCATTER_CALLS):
        inputs = rounded_anew(subject, ctx.generator, unit)
        moved = jittered_vjp(subject, _to(upstream, ctx, dtype), inputs, ctx.generator, dtype)[place]
        scatter = max(scatter, abs(dot([direction], [moved.double() - gradient.double()])))
    return scatter


def _to(upstream: Sequence[Tensor], ctx: Context, dtype: torch.dtype | None) -> list[Tensor]:
    return [v.to(dtype or y.dtype) for v, y in zip(upstream, ctx.outputs, strict=True)]


def _evaluate(subject: Subject, i: int, dtype: torch.dtype) -> ladders.Evaluate:
    fixed = in_dtype(subject.inputs, dtype if dtype == torch.float64 else None)

    def evaluate(points: Sequence[Tensor]) -> list[Tensor]:
        return subject.values([*fixed[:i], points[0], *fixed[i + 1 :]])

    return evaluate


def noise_in_float64(ctx: Context) -> float:
    """The rounding error of one output of the function in float64, relative to the largest (or to 1)."""
    upstream = [v.double() for v in ctx.gaussian() if v is not None]
    total = sum(v.numel() for v in upstream)
    if total == 0:
        return 0.0
    line = joint_line(ctx, upstream)
    noise = ladders.noise_of(line, ladders.SPACINGS[torch.float64][1:2]) / total**0.5
    return noise / max(1.0, max(float(y.double().abs().max()) if y.numel() else 0.0 for y in ctx.outputs))


def joint_line(ctx: Context, upstream: Sequence[Tensor]) -> ladders.Line:
    """A random line through the point along which all checked inputs move, in float64."""
    points = [ctx.subject.inputs[i].detach().double() for i in ctx.checked]

    fixed = in_dtype(ctx.subject.inputs, torch.float64)

    def evaluate(at: Sequence[Tensor]) -> list[Tensor]:
        inputs = list(fixed)
        for i, x in zip(ctx.checked, at, strict=True):
            inputs[i] = x
        return ctx.subject.values(inputs)

    directions = [root_mean_square(x) * normal(x.shape, ctx.generator, x.device) for x in points]
    return ladders.Line(evaluate, points, directions, upstream)
