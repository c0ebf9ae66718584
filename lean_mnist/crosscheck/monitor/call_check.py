"""Compare the gradients of a recorded module call with finite differences of the module's forward.

Three questions. (1) The custom nodes' gradients in the step are those of a replay of the same call with the same
upstream gradients: else something stale or nondeterministic was used. (2) The replay's gradients of the module's inputs
and parameters agree with directional differences of its forward in float64, jointly along one random direction in which
each tensor has about the same weight; if they do not, each tensor is asked alone. (3) Where a reference in plain
PyTorch is known, they agree with its gradients in float64, to the precision of plain PyTorch.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.diagnosis import diagnose
from lean_mnist.crosscheck.monitor.recorded_calls import ModuleReference, RecordedCall, WithReference, copy_of
from lean_mnist.crosscheck.numerics.differences import Outcome, past_kinks, same_in_float64, slope_test
from lean_mnist.crosscheck.numerics.step_sizes import noise_of
from lean_mnist.crosscheck.perturbation import perturbed_inputs, perturbed_vjp
from lean_mnist.crosscheck.report import GRADIENT, Finding, ModuleReport, Verdict, failed, not_applicable, passed
from lean_mnist.crosscheck.rules.finite_differences import DIFFERENCES
from lean_mnist.crosscheck.rules.low_precision import AUTOCAST, diagnose_lower, unexplained
from lean_mnist.crosscheck.rules.reference_gradients import compare_with_reference
from lean_mnist.crosscheck.subjects.calls import CallFailed, Subject, Upstream, norm, one_line
from lean_mnist.crosscheck.subjects.nodes import ancestors, custom_nodes
from lean_mnist.errors import LeanMnistError

REPLAY, REFERENCE = "replay", "reference"
_not_replayed = functools.partial(not_applicable, rule=REPLAY)
REPLAY_SHARE = 1e-2  # of a node's gradient: a replay in another memory layout may sum in another order


def check_recorded(recorded: RecordedCall, reference: ModuleReference | None, seed: int) -> ModuleReport:
    """Check one call whose backward came by. Leaves gradients, modes, buffers and generators as they are."""
    started = time.perf_counter()
    devices = sorted({d for d in recorded.random if d != "cpu"})
    with torch.random.fork_rng(devices=[torch.device(d).index for d in devices]):
        try:
            findings = _check(recorded, reference, seed)
        except (CallFailed, LeanMnistError, torch.OutOfMemoryError) as error:
            findings = [_not_replayed(f"the call cannot be made again: {one_line(error)}")]
    return ModuleReport(tuple(findings), recorded.step, recorded.name, time.perf_counter() - started)


def _check(recorded: RecordedCall, reference: ModuleReference | None, seed: int) -> list[Finding]:
    try:
        copied = copy_of(recorded.module)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
        return [_not_replayed(f"the module cannot be copied: {one_line(error)}")]
    names = list(recorded.checked_tensors)
    if not names:
        return [_not_replayed("neither an input nor a parameter needs a gradient")]
    subject = recorded.as_function(copied)
    upstream = _from_outside(subject, [recorded.upstream.get(k) for k in range(len(recorded.outputs))])
    if not _finite(upstream):
        why = "the upstream gradient is not finite, as where a loss scale is too large: look further up"
        return [_not_replayed(why)]
    ctx = Context(subject, None, names, seed, coarsest=recorded.coarsest)
    if not recorded.gives_again(ctx.outputs, ctx.unit):
        return [_not_replayed("the same call again gives other outputs: its state has changed, or is not kept")]
    gradients = subject.vjp(upstream)
    half = torch.float16 in (*ctx.dtypes, *recorded.autocast_dtypes)
    if half and not _finite(gradients) and _finite(subject.vjp(_smaller(upstream))):
        # A loss scale too large for float16, which the scaler will see and skip the step: checked without it.
        upstream = _smaller(upstream)
        gradients = subject.vjp(upstream)
        findings = [_not_replayed("the gradient is out of the range of float16")]
    else:
        findings = [_replayed(recorded, ctx, upstream)]
    # In half precision throughout differences tell little; where it can be in float32, it is checked there.
    if recorded.autocast_dtypes or (ctx.unit > torch.finfo(torch.float32).eps and same_in_float64(ctx)):
        with recorded.under_autocast(enabled=False):  # the backward may have been called under it
            plain = Context(recorded.as_function(copied, in_float32=True), None, names, seed)
            upstream32 = [None if v is None else v.to(y.dtype) for v, y in zip(upstream, plain.outputs, strict=True)]
            in32 = plain.subject.vjp(upstream32)
            along = _along_one_line(plain, upstream32, in32)
        findings += [_under_autocast(ctx, upstream, gradients, in32), *along]
    else:
        findings += _along_one_line(ctx, upstream, gradients)
    if reference is not None:
        findings += _against_reference(ctx, recorded, WithReference(copied, reference), upstream)
    return findings


def _from_outside(subject: Subject, totals: Upstream) -> Upstream:
    """Upstream gradient of each output, summed over all consumers outside the call.

    Where a module returns a loss and the logits that it is made of, or one tensor twice, what the one output sends back
    through the other is part of the other's gradient, and would be counted twice.
    """
    if sum(v is not None for v in totals) < 2:
        return totals
    outputs = subject.call().outputs
    made_of = [set(ancestors([y])) for y in outputs]
    upstream, done = list(totals), list[int]()
    for k in sorted(range(len(outputs)), key=lambda k: -len(made_of[k])):  # those made of others first
        v, y = totals[k], outputs[k]
        later = [j for j in done if y.grad_fn in made_of[j]]
        if v is not None and later:
            weights = [upstream[j] for j in later]
            (inside,) = torch.autograd.grad(
                [outputs[j] for j in later], [y], weights, retain_graph=True, allow_unused=True
            )
            upstream[k] = v if inside is None else v - inside
        if v is not None and y.requires_grad:
            done.append(k)
    return upstream


def _finite(tensors: Sequence[Tensor | None]) -> bool:
    return all(bool(x.isfinite().all()) for x in tensors if x is not None)


def _smaller(upstream: Upstream) -> list[Tensor | None]:
    """Scaled by a power of two, which rounds nothing, to numbers of at most 1."""
    largest = max((float(v.abs().max()) for v in upstream if v is not None and v.numel()), default=0.0)
    factor = 2.0 ** -math.ceil(math.log2(largest)) if largest > 0 else 1.0
    return [None if v is None else v * factor for v in upstream]


def _replayed(recorded: RecordedCall, ctx: Context, upstream: Upstream) -> Finding:
    evaluated = ctx.subject.call()
    nodes = custom_nodes(evaluated.outputs)
    if [type(node).__name__ for node in nodes] != recorded.nodes:
        return _not_replayed("the same call again makes other nodes")
    again: dict[int, tuple[Tensor | None, ...]] = {}
    for number, node in enumerate(nodes):
        node.register_hook(lambda gradients, _, number=number: again.__setitem__(number, gradients))
    evaluated.gradients(ctx.checked, upstream)
    for number, gradients in recorded.node_gradients.items():
        for index, (g, expected) in enumerate(zip(gradients, again.get(number, ()), strict=False)):
            if g is None or expected is None or bool((g == expected).all()):
                continue
            if norm(g.double() - expected.double()) <= REPLAY_SHARE * norm(expected):
                continue
            leaf = getattr(nodes[number].next_functions[index][0], "variable", None)
            names = [n for n, x in zip(ctx.names, evaluated.leaves, strict=True) if x is leaf]
            name = names[0] if names else f"gradient {index} of {recorded.nodes[number]}"
            text = "the step's gradient is not what the same call gives again: stale or nondeterministic"
            return failed(text, name, diagnose(g, expected), REPLAY)
    return passed(f"{len(recorded.node_gradients)} custom nodes gave what they give again", rule=REPLAY)


def _along_one_line(ctx: Context, upstream: Upstream, gradients: list[Tensor]) -> list[Finding]:
    """Differences along a random line; where they meet a kink (zeros before a ReLU), at a perturbed point too."""
    own = ctx.dtypes[0]
    precision = torch.float64 if own == torch.float64 or same_in_float64(ctx) else own

    def judge_at(subject: Subject, places: Sequence[int] = range(len(gradients))) -> Outcome:
        claimed = gradients if subject is ctx.subject else subject.vjp(upstream)
        slope = slope_test(
            subject, places, upstream, claimed, ctx.generator, precision=precision, unit=ctx.unit,
            noise=functools.partial(noise_of, quick=True), enough=0.05,
        ).slope  # fmt: skip
        return Outcome(slope, slope)

    outcome, at = past_kinks(judge_at, ctx.subject, ctx.generator)
    wrong, findings = outcome.slope.verdict is Verdict.FAILED, list[Finding]()
    if wrong and len(gradients) > 1:
        alone = [replace(judge_at(at, [place]).slope, subject=ctx.name(place)) for place in range(len(gradients))]
        findings = [slope for slope in alone if slope.verdict is Verdict.FAILED]
    findings = findings or [replace(outcome.slope, subject=", ".join(ctx.names))]
    words = ", at a perturbed point" * (at is not ctx.subject and wrong)
    words += f", by differences in {str(precision).removeprefix('torch.')}"
    return [replace(finding, text=finding.text + words, rule=DIFFERENCES, oracle=True) for finding in findings]


def _under_autocast(ctx: Context, upstream: Upstream, gradients: Sequence[Tensor], in32: Sequence[Tensor]) -> Finding:
    """The gradients under autocast against float32 (which is then held against differences), within its precision."""

    def again() -> list[Tensor]:
        inputs = perturbed_inputs(ctx.subject, ctx.generator, ctx.unit)
        return perturbed_vjp(ctx.subject, upstream, inputs, ctx.generator)

    for place in unexplained(gradients, in32, again):
        diagnosis = diagnose_lower(gradients[place], in32[place])
        return failed("another gradient than in float32", ctx.name(place), diagnosis, AUTOCAST)
    return passed("the gradients of float32, within its precision", rule=AUTOCAST)


def _against_reference(ctx: Context, recorded: RecordedCall, referee: nn.Module, upstream: Upstream) -> list[Finding]:
    ctx.fixed_upstream = upstream
    ctx.reference = recorded.as_function(referee, prefix="module.")
    expected = ctx.reference.call(dtype=torch.float64).outputs
    if [y.shape for y in expected] != [y.shape for y in ctx.outputs]:
        shapes = [[tuple(y.shape) for y in outputs] for outputs in (ctx.outputs, expected)]
        text = f"the module's outputs have shapes {shapes[0]}, the reference's {shapes[1]}"
        return [failed(text, rule=REFERENCE)]
    findings = [finding for finding in compare_with_reference(ctx) if finding.rule == GRADIENT]
    return [replace(finding, rule=REFERENCE, subject="", divergence=None, oracle=True) for finding in findings]
