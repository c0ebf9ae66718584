"""Compare the gradients of a recorded module call with finite differences of the module's forward.

(1) The custom nodes' gradients are those of a replay of the call: else something stale or nondeterministic was used.
(2) The replay's gradients that come through custom nodes agree with differences of the forward in float64, jointly
along one random direction, else each alone. (3) They agree with a reference's in float64, where one is known.

Where a gradient of one of several Functions is meant to be no derivative or goes to a tensor out of sight, or the call
does not repeat itself, differences are taken of every other Function alone (``slopes.check_functions``).
"""

import functools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.diagnosis import diagnose
from lean_mnist.crosscheck.monitor.intents import Intents
from lean_mnist.crosscheck.monitor.module_copies import ModuleCopy
from lean_mnist.crosscheck.monitor.reasons import NotApplicable, Reason, not_applicable_because
from lean_mnist.crosscheck.monitor.recorded_calls import ModuleReference, RecordedCall, nodes_to_check
from lean_mnist.crosscheck.monitor.slopes import check_functions, differences
from lean_mnist.crosscheck.numerics.in_float64 import same_in_float64
from lean_mnist.crosscheck.perturbation import perturbed_inputs, perturbed_vjp
from lean_mnist.crosscheck.report import GRADIENT, Finding, ModuleReport, Verdict, failed, not_applicable, passed
from lean_mnist.crosscheck.rules.low_precision import AUTOCAST, diagnose_lower, unexplained
from lean_mnist.crosscheck.rules.reference_gradients import compare_with_reference
from lean_mnist.crosscheck.subjects.calls import CallFailed, Evaluated, Subject, Upstream, generators_put_back
from lean_mnist.crosscheck.subjects.nodes import ancestors, leaves_reached_from
from lean_mnist.crosscheck.subjects.numbers import norm

REPLAY, REFERENCE = "replay", "reference"
_not_replayed = functools.partial(not_applicable, rule=REPLAY)
REPLAY_SHARE = 1e-2  # of a node's gradient: a replay in another memory layout may sum in another order


def check_recorded(
    recorded: RecordedCall,
    reference: ModuleReference | None,
    intents: Intents,
    seed: int,
    parameters: Sequence[Tensor] = (),
) -> tuple[ModuleReport, NotApplicable | None]:
    """The report on one call whose backward came by, and why it could not be checked, where it could not.

    Leaves modes, buffers, generators, and gradients of ``parameters``, which a replay might touch, as they are.
    """
    started, reason = time.perf_counter(), None
    with undisturbed(parameters):
        try:
            findings = _check(recorded, reference, intents, seed, parameters)
            if all(finding.verdict is Verdict.NOT_APPLICABLE for finding in findings):
                reason = NotApplicable(Reason.NOTHING_TOLD, findings[0].text)
        except Exception as error:
            reason = not_applicable_because(error)
            findings = [_not_replayed(str(reason))]
    return ModuleReport(
        tuple(findings), recorded.step, recorded.name, time.perf_counter() - started, recorded.path
    ), reason


@contextmanager
def undisturbed(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Restore at the end the random generators, and the gradients of ``parameters``, to which a replay may add."""
    kept = [x.grad for x in parameters]
    for x in parameters:
        x.grad = None
    try:
        with generators_put_back():
            yield
    finally:
        for x, gradient in zip(parameters, kept, strict=True):
            x.grad = gradient


def _check(
    recorded: RecordedCall, reference: ModuleReference | None, intents: Intents, seed: int, parameters: Sequence[Tensor]
) -> list[Finding]:
    recorded.require_unchanged()
    if not recorded.checked_tensors:
        raise NotApplicable(Reason.NOTHING_TO_CHECK)
    if any(x.is_complex() for x in recorded.checked_tensors.values()):
        raise NotApplicable(Reason.UNUSUAL_TENSORS, "a complex one needs a gradient")
    copied = ModuleCopy(recorded.module)
    subject = recorded.as_function(copied)
    upstream = _from_outside(subject, [recorded.upstream.get(k) for k in range(len(recorded.outputs))])
    if all(v is None for v in upstream):
        raise NotApplicable(Reason.UPSTREAM)
    if not _finite(upstream):
        raise NotApplicable(Reason.UPSTREAM, "as where a loss scale is too large: look further up")
    each_function_alone = functools.partial(check_functions, recorded, subject, upstream, intents, seed)
    if any(intents.of_function(function) for function in recorded.functions.values()):
        return each_function_alone()
    ctx = Context(subject, None, list(recorded.checked_tensors), seed, coarsest=recorded.coarsest)
    if not recorded.gives_again(ctx.outputs, ctx.unit):
        return each_function_alone()
    evaluated = subject.call()
    every, behind = subject.checked, _behind_custom_nodes(recorded, evaluated)
    if behind is None:
        return each_function_alone()
    subject.checked = behind
    try:
        gradients, replayed = _replayed(recorded, ctx, evaluated, upstream)
    except CallFailed:  # it may be for .backward() only, as where a checkpoint computes again what is out of sight
        subject.source, subject.checked = "backward", every
        gradients, replayed = _replayed(recorded, ctx, subject.call(), upstream)
        if any(x.grad is not None for x in (*parameters, *copied.others)):
            raise NotApplicable(Reason.OUT_OF_SIGHT, "a parameter that is not the module's own") from None
    half = torch.float16 in (*ctx.dtypes, *recorded.autocast_dtypes)
    if half and not _finite(gradients) and _finite(subject.vjp(_smaller(upstream))):
        # A loss scale too large for float16, which the scaler will see and skip the step: checked without it.
        upstream = _smaller(upstream)
        gradients = subject.vjp(upstream)
        replayed = _not_replayed("the gradient is out of the range of float16")
    findings = [replayed]
    smooth = intents.of_module(recorded.path, recorded.module).smooth
    # In half precision throughout differences tell little; where it can be in float32, it is checked there.
    if recorded.autocast_dtypes or (ctx.unit > torch.finfo(torch.float32).eps and same_in_float64(ctx)):
        with recorded.under_autocast(enabled=False):  # the backward may have been called under it
            in_float32 = functools.partial(recorded.as_function, copied, in_float32=True)
            plain = Context(
                replace(in_float32(), checked=subject.checked, source=subject.source), None, ctx.names, seed
            )
            upstream32 = [None if v is None else v.to(y.dtype) for v, y in zip(upstream, plain.outputs, strict=True)]
            in32 = plain.subject.vjp(upstream32)
            along = differences(plain, upstream32, in32, in_float32(call=smooth) if smooth else None)
        findings += [_under_autocast(ctx, upstream, gradients, in32), *along]
    else:
        findings += differences(ctx, upstream, gradients, recorded.as_function(copied, call=smooth) if smooth else None)
    if reference is not None:
        findings += _against_reference(ctx, recorded.as_function(copied, call=reference), upstream)
    return findings


def _behind_custom_nodes(recorded: RecordedCall, evaluated: Evaluated) -> tuple[int, ...] | None:
    """The indices of the tensors whose gradient comes through one of the call's own custom nodes.

    ``None`` where such a gradient goes to a tensor out of sight, as one that is kept in a list or a closure.
    """
    nodes = nodes_to_check(evaluated.outputs, set())
    if [type(node).__name__ for node in nodes] != recorded.nodes:
        raise NotApplicable(Reason.NOT_REPEATABLE, "it makes other nodes")
    behind = {id(x) for x in leaves_reached_from([nodes[k] for k in recorded.functions])}
    in_sight = {id(x): i for i, x in enumerate(evaluated.leaves)}
    if not behind:
        raise NotApplicable(Reason.NOTHING_TO_CHECK)
    return tuple(sorted(in_sight[x] for x in behind)) if behind <= set(in_sight) else None


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


def _replayed(
    recorded: RecordedCall, ctx: Context, evaluated: Evaluated, upstream: Upstream
) -> tuple[list[Tensor], Finding]:
    """The gradients of a replay, and whether its custom nodes give what they gave in the step."""
    nodes, again = nodes_to_check(evaluated.outputs, set()), dict[int, tuple[Tensor | None, ...]]()
    for number, node in enumerate(nodes):
        node.register_hook(lambda gradients, _, number=number: again.__setitem__(number, gradients))
    replayed = evaluated.gradients(ctx.checked, upstream)
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
            return replayed, failed(text, name, diagnose(g, expected), REPLAY)
    return replayed, passed(f"{len(recorded.node_gradients)} custom nodes gave what they give again", rule=REPLAY)


def _under_autocast(ctx: Context, upstream: Upstream, gradients: Sequence[Tensor], in32: Sequence[Tensor]) -> Finding:
    """The gradients under autocast against float32 (which is then held against differences), within its precision."""

    def again() -> list[Tensor]:
        inputs = perturbed_inputs(ctx.subject, ctx.generator, ctx.unit)
        return perturbed_vjp(ctx.subject, upstream, inputs, ctx.generator)

    for place in unexplained(gradients, in32, again):
        diagnosis = diagnose_lower(gradients[place], in32[place])
        return failed("another gradient than in float32", ctx.name(place), diagnosis, AUTOCAST)
    return passed("the gradients of float32, within its precision", rule=AUTOCAST)


def _against_reference(ctx: Context, referee: Subject, upstream: Upstream) -> list[Finding]:
    ctx.fixed_upstream = upstream
    ctx.reference = replace(referee, checked=ctx.checked)
    expected = ctx.reference.call(dtype=torch.float64).outputs
    if [y.shape for y in expected] != [y.shape for y in ctx.outputs]:
        shapes = [[tuple(y.shape) for y in outputs] for outputs in (ctx.outputs, expected)]
        text = f"the module's outputs have shapes {shapes[0]}, the reference's {shapes[1]}"
        return [failed(text, rule=REFERENCE)]
    findings = [finding for finding in compare_with_reference(ctx) if finding.rule == GRADIENT]
    return [replace(finding, rule=REFERENCE, subject="", divergence=None, oracle=True) for finding in findings]
