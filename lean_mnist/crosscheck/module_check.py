"""Is what a recorded call of a module gave in backward the derivative of its forward?

Three links. (1) The custom nodes' gradients in the step are those of a replay of the same call with the same upstream
gradients: else something stale or nondeterministic was used. (2) The replay's gradients of the module's inputs and
parameters agree with directional differences of its forward in float64, jointly along one random direction in which
each tensor has about the same weight; if they do not, each tensor is asked alone. (3) Where a reference in plain
PyTorch is known, they agree with its gradients in float64, to the precision of plain PyTorch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.calls import (
    CallFailed,
    Subject,
    Upstream,
    dot,
    in_dtype,
    norm,
    normal,
    one_line,
    root_mean_square,
)
from lean_mnist.crosscheck.context import FLOOR_ULPS, SCATTER_CALLS, Context
from lean_mnist.crosscheck.diagnosis import diagnose
from lean_mnist.crosscheck.module_calls import (
    ModuleReference,
    Recorded,
    WithReference,
    checked_tensors,
    coarsest,
    copy_of,
    gives_again,
    replayable,
    under_autocast,
)
from lean_mnist.crosscheck.nodes import custom_nodes
from lean_mnist.crosscheck.numerics import step_sizes as ladders
from lean_mnist.crosscheck.numerics.differences import FLOAT64_NOISE, MOVE, MOVES, Outcome, judge
from lean_mnist.crosscheck.numerics.perturbation import jittered_vjp, rounded_anew
from lean_mnist.crosscheck.numerics.reference_outputs import reference_gradients, settled_gradient
from lean_mnist.crosscheck.report import (
    Finding,
    Verdict,
    failed,
    failing_first,
    kink,
    not_applicable,
    passed,
)
from lean_mnist.crosscheck.rules.linearity_and_layout import different
from lean_mnist.crosscheck.rules.low_precision import unexplained
from lean_mnist.crosscheck.rules.reference import at_a_kink
from lean_mnist.errors import LeanMnistError

REPLAY, DIFFERENCES, AUTOCAST, REFERENCE = "replay", "finite differences", "autocast", "reference"
REPLAY_SHARE = 1e-2  # of a node's gradient: a replay in another memory layout may sum in another order


@dataclass(frozen=True)
class ModuleReport:
    """What was found about one call of one module: ``ok``, and the findings, to be printed."""

    step: int
    module: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        return all(finding.verdict is not Verdict.FAILED for finding in self.findings)

    @property
    def checked(self) -> bool:
        """Whether any rule could be applied."""
        return any(finding.verdict is not Verdict.NOT_APPLICABLE for finding in self.findings)

    def __str__(self) -> str:
        lines = [f"{self.module}, forward {self.step}: {'passed' if self.ok else 'FAILED'}"]
        return "\n".join([*lines, *(f"  {finding}" for finding in failing_first(self.findings))])


def check_recorded(recorded: Recorded, reference: ModuleReference | None, seed: int) -> ModuleReport:
    """Check one call whose backward came by. Leaves gradients, modes, buffers and generators as they are."""
    started = time.perf_counter()
    devices = sorted({d for d in recorded.random if d != "cpu"})
    with torch.random.fork_rng(devices=[torch.device(d).index for d in devices]):
        try:
            findings = _check(recorded, reference, seed)
        except (CallFailed, LeanMnistError, torch.OutOfMemoryError) as error:
            findings = [not_applicable(REPLAY, f"the call cannot be made again: {one_line(error)}")]
    return ModuleReport(recorded.step, recorded.name, tuple(findings), time.perf_counter() - started)


def _check(recorded: Recorded, reference: ModuleReference | None, seed: int) -> list[Finding]:
    try:
        copied = copy_of(recorded.module)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
        return [not_applicable(REPLAY, f"the module cannot be copied: {one_line(error)}")]
    names, tensors = checked_tensors(recorded)
    if not tensors:
        return [not_applicable(REPLAY, "neither an input nor a parameter needs a gradient")]
    subject = replayable(recorded, copied, names, tensors)
    upstream = from_outside(subject, [recorded.upstream.get(k) for k in range(len(recorded.outputs))])
    if not _finite(upstream):
        why = "the upstream gradient is not finite, as where a loss scale is too large: look further up"
        return [not_applicable(REPLAY, why)]
    ctx = _context(subject, names, seed)
    ctx.coarsest = coarsest(recorded)
    if not gives_again(ctx.outputs, recorded, ctx.unit):
        why = "the same call again gives other outputs: its state has changed, or is not kept"
        return [not_applicable(REPLAY, why)]
    gradients = subject.vjp(upstream)
    if _half(recorded, ctx) and not _finite(gradients) and _finite(subject.vjp(_smaller(upstream))):
        # A loss scale too large for float16, which the scaler will see and skip the step: checked without it.
        upstream = _smaller(upstream)
        gradients = subject.vjp(upstream)
        findings = [not_applicable(REPLAY, "the gradient is out of the range of float16")]
    else:
        findings = _replayed(recorded, ctx, upstream)
    if any(enabled for enabled, _ in recorded.autocast.values()) or _coarse(ctx, recorded):
        with under_autocast(recorded, enabled=False):  # the backward may have been called under it
            plain = _context(replayable(recorded, copied, names, tensors, in_float32=True), names, seed)
            upstream32 = [None if v is None else v.to(y.dtype) for v, y in zip(upstream, plain.outputs, strict=True)]
            in32 = plain.subject.vjp(upstream32)
            along = _along_one_line(plain, upstream32, in32)
        findings += [*_under_autocast(ctx, upstream, gradients, in32), *along]
    else:
        findings += _along_one_line(ctx, upstream, gradients)
    if reference is not None:
        referee = WithReference(copied, reference)
        ctx.reference = replayable(recorded, referee, names, tensors, prefix="module.")
        findings += _against_reference(ctx, upstream, gradients)
    return findings


def from_outside(subject: Subject, totals: Upstream) -> Upstream:
    """What came to each output from outside of the call, of the gradient in it in all.

    Where a module returns a loss and the logits that it is made of, or one tensor twice, what the one output sends back
    through the other is part of the other's gradient, and would be counted twice.
    """
    if sum(v is not None for v in totals) < 2:
        return totals
    outputs = subject.call().outputs
    ancestors = [_ancestors(y) for y in outputs]
    upstream, done = list(totals), list[int]()
    for k in sorted(range(len(outputs)), key=lambda k: -len(ancestors[k])):  # those made of others first
        v, y = totals[k], outputs[k]
        later = [j for j in done if y.grad_fn in ancestors[j]]
        if v is not None and later:
            weights = [upstream[j] for j in later]
            (inside,) = torch.autograd.grad(
                [outputs[j] for j in later], [y], weights, retain_graph=True, allow_unused=True
            )
            upstream[k] = v if inside is None else v - inside
        if v is not None and y.requires_grad:
            done.append(k)
    return upstream


def _ancestors(y: Tensor) -> set[Any]:
    found, pending = set(), [y.grad_fn]
    while pending:
        node = pending.pop()
        if node is not None and node not in found:
            found.add(node)
            pending.extend(parent for parent, _ in node.next_functions)
    return found


def _finite(tensors: Sequence[Tensor | None]) -> bool:
    return all(bool(x.isfinite().all()) for x in tensors if x is not None)


def _half(recorded: Recorded, ctx: Context) -> bool:
    kinds = [*ctx.dtypes, *(dtype for enabled, dtype in recorded.autocast.values() if enabled)]
    return torch.float16 in kinds


def _coarse(ctx: Context, recorded: Recorded) -> bool:
    """Whether the call is in half precision throughout, in which differences tell little, and can be in float32."""
    if ctx.unit <= torch.finfo(torch.float32).eps:
        return False
    try:
        outputs = ctx.subject.values(in_dtype(ctx.subject.inputs, torch.float64))
    except CallFailed:
        return False
    return all(y.dtype == torch.float64 for y in outputs)


def _smaller(upstream: Upstream) -> list[Tensor | None]:
    """Scaled by a power of two, which rounds nothing, to numbers of at most 1."""
    largest = max((float(v.abs().max()) for v in upstream if v is not None and v.numel()), default=0.0)
    factor = 2.0 ** -math.ceil(math.log2(largest)) if largest > 0 else 1.0
    return [None if v is None else v * factor for v in upstream]


def _context(subject: Subject, names: list[str], seed: int) -> Context:
    outputs = subject.call().outputs
    return Context(subject, None, names, seed, 1, 1, [y.detach() for y in outputs], [y.requires_grad for y in outputs])


def _replayed(recorded: Recorded, ctx: Context, upstream: Upstream) -> list[Finding]:
    evaluated = ctx.subject.call()
    nodes = custom_nodes(evaluated.outputs, set())
    if [type(node).__name__ for node in nodes] != recorded.nodes:
        return [not_applicable(REPLAY, "the same call again makes other nodes")]
    again: dict[int, tuple[Tensor | None, ...]] = {}

    def keep(number: int) -> Callable[[Any, Any], None]:
        return lambda gradients, _: again.__setitem__(number, gradients)

    for number, node in enumerate(nodes):
        node.register_hook(keep(number))
    evaluated.vjp(ctx.checked, [None if v is None else v.clone() for v in upstream])
    for number, gradients in recorded.node_gradients.items():
        for index, (g, expected) in enumerate(zip(gradients, again.get(number, ()), strict=False)):
            if g is None or expected is None or bool((g == expected).all()):
                continue
            difference = norm(g.double() - expected.double())
            if difference <= REPLAY_SHARE * norm(expected):
                continue
            owner = nodes[number].next_functions[index][0]
            leaf = getattr(owner, "variable", None)
            names = [n for n, x in zip(ctx.names, evaluated.leaves, strict=True) if x is leaf]
            name = names[0] if names else f"gradient {index} of {recorded.nodes[number]}"
            text = "the step's gradient is not what the same call gives again: stale or nondeterministic"
            return [failed(REPLAY, text, name, diagnose(g, expected))]
    return [passed(REPLAY, f"{len(recorded.node_gradients)} custom nodes gave what they give again")]


def _along_one_line(ctx: Context, upstream: Upstream, gradients: list[Tensor]) -> list[Finding]:
    """Differences; where they meet a kink (zeros before a ReLU), a little aside of it too, where it excuses nothing."""
    findings = _differences(ctx, upstream, gradients)
    if findings[0].verdict is not Verdict.KINK:
        return findings
    for move in range(MOVES):
        aside = replace(ctx.subject, inputs=ctx.subject.moved(ctx.generator, MOVE))
        try:
            there = _context(aside, ctx.names, ctx.seed + 1 + move)
            there.coarsest = ctx.coarsest
            found = _differences(there, upstream, aside.vjp(upstream))
        except CallFailed:  # out of its domain
            continue
        if found[0].verdict is Verdict.FAILED:
            return [replace(finding, text=f"{finding.text}, a little aside of a kink") for finding in found]
        if found[0].verdict is Verdict.PASSED:
            return [replace(findings[0], text=f"{findings[0].text}; right a little aside of it")]
    return findings


def _differences(ctx: Context, upstream: Upstream, gradients: list[Tensor]) -> list[Finding]:
    every = list(range(len(gradients)))
    outcome, words = _outcome(ctx, upstream, gradients, every)
    if outcome.slope == "failed":
        alone = [(place, *_outcome(ctx, upstream, gradients, [place])) for place in every if len(every) > 1]
        found = [failed(DIFFERENCES, f"{o.slope_text}, {w}", ctx.name(p)) for p, o, w in alone if o.slope == "failed"]
        return found or [failed(DIFFERENCES, f"{outcome.slope_text}, {words}", ", ".join(ctx.names))]
    make = {"passed": passed, "kink": kink, "untold": not_applicable}[outcome.slope]
    return [make(DIFFERENCES, f"{outcome.slope_text}, {words}", ", ".join(ctx.names))]


def _outcome(ctx: Context, upstream: Upstream, gradients: list[Tensor], places: list[int]) -> tuple[Outcome, str]:
    """Judge the gradients at ``places`` along one direction; those at other places are held fixed."""
    used = [torch.zeros_like(y) if v is None else v for v, y in zip(upstream, ctx.outputs, strict=True)]
    precision = _float64_or_own(ctx)
    points = [ctx.subject.inputs[place].detach().to(precision) for place in places]
    sizes = [root_mean_square(x) * norm(gradients[place]) for x, place in zip(points, places, strict=True)]
    smallest = min((s for s in sizes if s > 0), default=1.0)
    weights = [min(1.0, max(smallest / s, 1e-3)) if s > 0 else 1.0 for s in sizes]
    directions = [
        weight * root_mean_square(x) * normal(x.shape, ctx.generator, x.device)
        for weight, x in zip(weights, points, strict=True)
    ]
    fixed = in_dtype(ctx.subject.inputs, torch.float64 if precision == torch.float64 else None)

    def evaluate(at: Any) -> list[Tensor]:
        inputs = list(fixed)
        for place, x in zip(places, at, strict=True):
            inputs[place] = x
        return ctx.subject.values(inputs)

    line = ladders.Line(evaluate, points, directions, used)
    claimed = [gradients[place] for place in places]

    def scatter() -> float:
        largest = 0.0
        for _ in range(SCATTER_CALLS):
            inputs = rounded_anew(ctx.subject, ctx.generator, ctx.unit)
            moved = jittered_vjp(ctx.subject, upstream, inputs, ctx.generator)
            shift = [moved[place].double() - gradients[place].double() for place in places]
            largest = max(largest, abs(dot(directions, shift)))
        return largest

    floor = FLOOR_ULPS * ctx.unit * sum(norm(u * g.double()) for u, g in zip(directions, claimed, strict=True))
    noise = ladders.noise_of(line, ladders.SPACINGS[precision][1:2])
    outcome = judge(line, claimed, floor, scatter, ladders.STEPS[precision], noise, enough=0.05 * floor)
    return outcome, f"by differences in {str(precision).removeprefix('torch.')}"


def _float64_or_own(ctx: Context) -> torch.dtype:
    """Differences are taken in float64 if the module runs there, and gives there what it gives in its own precision."""
    own = ctx.dtypes[0]
    if own == torch.float64:
        return own
    try:
        outputs = ctx.subject.values(in_dtype(ctx.subject.inputs, torch.float64))
    except CallFailed:
        return own
    allowed = max(1e3 * ctx.unit, FLOAT64_NOISE)
    pairs = list(zip(outputs, ctx.outputs, strict=False))
    agree = all(a.dtype == torch.float64 and not norm(a - b.double()) > allowed * (1 + norm(a)) for a, b in pairs)
    return torch.float64 if agree and len(outputs) == len(ctx.outputs) else own


def _under_autocast(
    ctx: Context, upstream: Upstream, gradients: Sequence[Tensor], in32: Sequence[Tensor]
) -> list[Finding]:
    """What autocast gave, against float32 (which is then held against differences), within autocast's precision."""

    def again() -> list[Tensor]:
        inputs = rounded_anew(ctx.subject, ctx.generator, ctx.unit)
        return jittered_vjp(ctx.subject, upstream, inputs, ctx.generator)

    for place in unexplained(gradients, in32, again):
        g, plain = gradients[place], in32[place]
        diagnosis = diagnose(g.to(plain.dtype), plain, tolerance=0.05 * norm(plain) / max(plain.numel(), 1) ** 0.5)
        return [failed(AUTOCAST, "another gradient than in float32", ctx.name(place), diagnosis)]
    return [passed(AUTOCAST, "the gradients of float32, within its precision")]


def _against_reference(ctx: Context, upstream: Upstream, gradients: list[Tensor]) -> list[Finding]:
    assert ctx.reference is not None
    expected = ctx.reference.call(dtype=torch.float64).outputs
    if [y.shape for y in expected] != [y.shape for y in ctx.outputs]:
        shapes = [[tuple(y.shape) for y in outputs] for outputs in (ctx.outputs, expected)]
        return [failed(REFERENCE, f"the module's outputs have shapes {shapes[0]}, the reference's {shapes[1]}")]
    answer = reference_gradients(ctx.reference, upstream)
    findings = []
    for place, g in enumerate(gradients):
        name = f"gradient of {ctx.name(place)}"
        divergence = settled_gradient(answer, place, name, g, ctx.reference, upstream, ctx.generator)
        if divergence.passed:
            findings.append(passed(REFERENCE, str(divergence)))
        elif at_a_kink(ctx, place, upstream, norm(g.double() - answer.exact[place])):
            findings.append(kink(REFERENCE, str(divergence)))
        elif ctx.coarsest and place not in different(ctx, gradients, answer.exact, upstream):
            findings.append(passed(REFERENCE, f"{divergence}, within the precision of autocast or TF32"))
        else:
            findings.append(failed(REFERENCE, str(divergence), diagnosis=diagnose(g, answer.exact[place])))
    return findings
