"""Every Function changes nothing in place, repeats itself, and does not depend on which gradients are asked for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.diagnosis import Candidate, Kind, diagnose
from lean_mnist.crosscheck.report import Finding, Severity, failed, not_applicable, passed
from lean_mnist.crosscheck.rules import noting_failed_calls, other_gradients, rule
from lean_mnist.crosscheck.subjects.calls import CallFailed, same_bits
from lean_mnist.crosscheck.subjects.nodes import custom_nodes, kept_tensors

ALL_SUBSETS = 4  # of so many inputs; of more, single ones and all but one


@rule("mutation", order=80, fast=True, points_to=Kind.MUTATION)
def mutation(ctx: Context) -> list[Finding]:
    """Neither pass changes the inputs, nor the backward its upstream gradient, the outputs or what the forward kept."""
    before = [x.detach().clone() if isinstance(x, Tensor) else None for x in ctx.subject.inputs]
    evaluated = ctx.subject.call()

    def changed_inputs(when: str, severity: Severity) -> list[Finding]:
        return [
            failed(f"the {when} changed this input in place", name, severity=severity)
            for name, given, original in zip(ctx.names, evaluated.inputs, before, strict=True)
            # A clone that needs a gradient was made to be written into.
            if original is not None and not (ctx.subject.clones and given.requires_grad)
            if not same_bits(given, original)
        ]

    findings = changed_inputs("forward", Severity.ERROR)
    nodes = custom_nodes(evaluated.outputs)
    upstream = ctx.gaussian()
    kept = [tensor for node in nodes for tensor in kept_tensors(node)]
    watched = [
        *(("its upstream gradient in place", f"output {k}", v) for k, v in enumerate(upstream)),
        *(("an output in place", f"output {k}", y) for k, y in enumerate(evaluated.outputs)),
        *((f"tensor {k} of {len(kept)} that the forward kept", "", tensor) for k, tensor in enumerate(kept)),
    ]
    copies = [tensor.detach().clone() for _, _, tensor in watched]
    try:
        evaluated.gradients(ctx.checked, upstream, copy=False, retain_graph=True)
    except CallFailed as failure:
        return [failed(f"with the graph retained its {failure}")]
    findings = findings or changed_inputs("backward", Severity.WARNING)
    for (what, subject, tensor), original in zip(watched, copies, strict=True):
        if not same_bits(tensor, original):
            findings.append(failed(f"the backward changed {what}", subject, severity=Severity.WARNING))
    return findings or [passed(f"inputs, outputs, upstream gradient and {len(kept)} kept tensors unchanged")]


@rule("random numbers", order=85, points_to=Kind.RANDOM_NUMBERS)
def random_numbers(ctx: Context) -> list[Finding]:
    """A backward that computes its forward again draws the same random numbers, wherever the generators stand by then.

    Every other rule leaves them where other draws have put them. Here they are put back before the backward.
    """
    if ctx.subject.seed is None:
        return [not_applicable("the forward draws none")]
    upstream = ctx.gaussian()
    expected = ctx.subject.vjp(upstream)
    evaluated = ctx.subject.call()
    ctx.subject.reseed()
    found = evaluated.gradients(ctx.checked, upstream)
    text = "the backward draws its own, not those of the forward"
    return [
        replace(finding, diagnosis=replace(finding.diagnosis, kind=Kind.RANDOM_NUMBERS, text=text))
        for finding in other_gradients(ctx, "the gradient depends on the generators", found, expected, upstream)
        if finding.diagnosis is not None
    ] or [passed("the backward draws none, or those of the forward")]


@rule("replay", order=90, points_to=Kind.NONDETERMINISM)
def replay(ctx: Context) -> list[Finding]:
    """The same bits again: repeated, with another call in between (for state outside ``ctx``), by one graph twice."""
    upstream = ctx.gaussian()
    first = ctx.subject.vjp(upstream)
    remark = ""
    for _ in range(ctx.options.replays - 1):
        again = ctx.subject.vjp(upstream)
        for place in _changed(ctx, again, first, upstream):
            text = "the same call again gives another gradient"
            diagnosis = replace(diagnose(again[place], first[place]), kind=Kind.NONDETERMINISM, text=text)
            return [failed("not repeatable", ctx.name(place), diagnosis)]
        if not all(map(same_bits, first, again)):
            remark = ", but for the last bits"
    findings: list[Finding] = []
    with noting_failed_calls(findings, "with another call in between"):
        findings += [*_interleaved(ctx, upstream, first), *_twice(ctx, upstream, first)]
    stochastic = ""
    if ctx.subject.seed is not None:
        stochastic = (
            f"stochastic: the forward draws random numbers, so torch.manual_seed({ctx.subject.seed}) was called before "
            "every call here; do so yourself, or pass it a generator or the drawn numbers, to have it repeat itself; "
        )
    return findings or [
        passed(f"{stochastic}{ctx.options.replays} calls, with another in between, give the same bits{remark}")
    ]


def _changed(ctx: Context, found: list[Tensor], first: list[Tensor], upstream: Sequence[Tensor]) -> Sequence[int]:
    """On a CPU every bit counts; elsewhere sums by atomic additions may come in another order every time."""
    places = [place for place, (a, b) in enumerate(zip(found, first, strict=True)) if not same_bits(a, b)]
    on_cpu = all(g.device.type == "cpu" for g in first)
    return places if on_cpu or not places else ctx.differing(found, first, upstream)


def _interleaved(ctx: Context, upstream: Sequence[Tensor], first: list[Tensor]) -> list[Finding]:
    other = ctx.subject.moved(ctx.generator, 0.5)
    try:
        gradients_there = ctx.subject.vjp(upstream, other)
    except CallFailed:  # it may have left the function's domain; then its own inputs will do
        other = list(ctx.subject.inputs)
        gradients_there = first
    evaluated = ctx.subject.call()
    between = ctx.subject.call(other)
    if ctx.generator.initial_seed() % 2:  # either order of the two backwards occurs in programs
        between.gradients(ctx.checked, upstream)
    found = evaluated.gradients(ctx.checked, upstream)
    for place in _changed(ctx, found, first, upstream):
        words = "this is the gradient of the call before"
        candidates = [Candidate(Kind.STALE_VALUE, words, gradients_there[place])]
        diagnosis = diagnose(found[place], first[place], candidates=candidates)
        if diagnosis.kind is not Kind.STALE_VALUE:
            diagnosis = replace(diagnosis, kind=Kind.STALE_VALUE, text="depends on a call made in between")
        return [failed("another call between forward and backward changes it", ctx.name(place), diagnosis)]
    return []


def _twice(ctx: Context, upstream: Sequence[Tensor], first: list[Tensor]) -> list[Finding]:
    evaluated = ctx.subject.call()
    try:
        evaluated.gradients(ctx.checked, upstream, retain_graph=True)
        found = evaluated.gradients(ctx.checked, upstream)
    except CallFailed:
        return []  # refused, with an error
    for place in _changed(ctx, found, first, upstream):
        words = "a second backward through the same graph (retain_graph) gives another gradient"
        diagnosis = diagnose(found[place], first[place])
        return [failed(words, ctx.name(place), diagnosis, severity=Severity.WARNING)]
    return []


@rule("needs_input_grad", order=100)
def needs_input_grad(ctx: Context) -> list[Finding]:
    """Each subset of the inputs that require a gradient gives the gradients that all together give."""
    if len(ctx.checked) < 2:
        return [not_applicable("one input only")]
    places = range(len(ctx.checked))
    sizes = range(1, len(places)) if len(places) <= ALL_SUBSETS else (1, len(places) - 1)
    subsets = [subset for size in sizes for subset in itertools.combinations(places, size)]
    upstream = ctx.gaussian()
    expected = ctx.subject.vjp(upstream)
    findings: list[Finding] = []
    for subset in subsets:
        only = ", ".join(ctx.name(place) for place in subset)
        with noting_failed_calls(findings, f"where only {only} needs a gradient"):
            found = ctx.subject.vjp(upstream, needing=[ctx.checked[place] for place in subset])
            everywhere = {**dict(enumerate(expected)), **dict(zip(subset, found, strict=True))}
            words = f"another one where only {only} needs a gradient"
            findings += other_gradients(ctx, words, list(everywhere.values()), expected, upstream)
    return findings[:4] or [passed(f"{len(subsets)} subsets of the inputs give the same gradients")]
