"""What every Function owes whatever it computes: to change nothing in place, to repeat itself, to be asked for less.

*Mutation*: checks by comparing copies, bit for bit. *Replay*: the same call gives the same bits, also with another call
in between (which finds state kept outside of ``ctx``), and also through one graph twice. *needs_input_grad*: the
gradients do not depend on which others are asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lean_mnist.crosscheck.calls import CallFailed, copies, seed_everything
from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.diagnosis import Candidate, Kind, diagnose
from lean_mnist.crosscheck.nodes import custom_nodes, kept_tensors
from lean_mnist.crosscheck.report import Finding, failed, not_applicable, passed
from lean_mnist.crosscheck.rules.linearity_and_layout import different

MUTATION = "mutation"
REPLAY = "replay"
NEEDS = "needs_input_grad"
ALL_SUBSETS = 4  # of so many inputs; of more, single ones and all but one


def mutation(ctx: Context) -> list[Finding]:
    """Neither pass changes the inputs, nor the backward its upstream gradient, the outputs or what the forward kept."""
    before = [x.detach().clone() if isinstance(x, Tensor) else None for x in ctx.subject.inputs]
    evaluated = ctx.subject.call()
    findings = []

    def look(when: str) -> None:
        for name, given, original in zip(ctx.names, evaluated.inputs, before, strict=True):
            own = ctx.subject.clones and given.requires_grad if isinstance(given, Tensor) else True
            if original is not None and not own and not same(given, original):
                findings.append(failed(MUTATION, f"the {when} changed this input in place", name))

    look("forward")
    nodes = custom_nodes(evaluated.outputs, set())
    kept = [tensor for node in nodes for tensor in kept_tensors(node)]
    kept_before = [tensor.detach().clone() for tensor in kept]
    outputs_before = [y.detach().clone() for y in evaluated.outputs]
    upstream = ctx.gaussian()
    given = copies(upstream)
    try:
        evaluated.vjp(ctx.checked, given, retain_graph=True)
    except CallFailed as failure:
        return [failed(MUTATION, f"with the graph retained its {failure}")]
    if not findings:
        look("backward")
    for k, (v, original) in enumerate(zip(given, upstream, strict=True)):
        if v is not None and original is not None and not same(v, original):
            findings.append(failed(MUTATION, "the backward changed its upstream gradient in place", f"output {k}"))
    for k, (y, original) in enumerate(zip(evaluated.outputs, outputs_before, strict=True)):
        if not same(y, original):
            findings.append(failed(MUTATION, "the backward changed an output in place", f"output {k}"))
    for k, (tensor, original) in enumerate(zip(kept, kept_before, strict=True)):
        if not same(tensor, original):
            words = f"the backward changed tensor {k} of {len(kept)} that the forward kept"
            findings.append(failed(MUTATION, words))
    return findings or [passed(MUTATION, f"inputs, outputs, upstream gradient and {len(kept)} kept tensors unchanged")]


def same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, as far as numbers go: NaN is the same as NaN."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def replay(ctx: Context) -> list[Finding]:
    """The same bits again: repeated, with another call between forward and backward, and through one graph twice."""
    upstream = ctx.gaussian()
    first = ctx.gradients(upstream)
    remark = ""
    for _ in range(ctx.replays - 1):
        again = ctx.gradients(upstream)
        for place in _changed(ctx, again, first, upstream):
            text = "the same call again gives another gradient"
            diagnosis = replace(diagnose(again[place], first[place]), kind=Kind.NONDETERMINISM, text=text)
            return [failed(REPLAY, "not repeatable", ctx.name(place), diagnosis)]
        if not all(same(a, b) for a, b in zip(first, again, strict=True)):
            remark = ", but for the last bits"
    try:
        findings = [*_interleaved(ctx, upstream, first), *_twice(ctx, upstream, first)]
    except CallFailed as failure:
        return [failed(REPLAY, f"with another call in between its {failure}")]
    stochastic = ""
    if ctx.subject.seed is not None:
        stochastic = (
            f"stochastic: the forward draws random numbers, so torch.manual_seed({ctx.subject.seed}) was called before "
            "every call here; do so yourself, or pass it a generator or the drawn numbers, to have it repeat itself; "
        )
    text = f"{stochastic}{ctx.replays} calls, with another in between, give the same bits{remark}"
    return findings or [passed(REPLAY, text)]


def _interleaved(ctx: Context, upstream: Sequence[Tensor | None], first: list[Tensor]) -> list[Finding]:
    other = ctx.subject.moved(ctx.generator, 0.5)
    try:
        gradients_there = ctx.subject.vjp(upstream, other)
    except CallFailed:  # it may have left the function's domain; then its own inputs will do
        other = list(ctx.subject.inputs)
        gradients_there = first
    evaluated = ctx.subject.call()
    between = ctx.subject.call(other)
    if ctx.subject.seed is not None:
        seed_everything(ctx.subject.seed)
    if ctx.generator.initial_seed() % 2:  # either order of the two backwards occurs in programs
        between.vjp(ctx.checked, copies(upstream))
    found = _filled(evaluated.vjp(ctx.checked, copies(upstream)), first)
    for place in _changed(ctx, found, first, upstream):
        diagnosis = diagnose(
            found[place],
            first[place],
            candidates=[Candidate(Kind.STALE_VALUE, "this is the gradient of the call before", gradients_there[place])],
        )
        if diagnosis.kind is not Kind.STALE_VALUE:
            diagnosis = replace(diagnosis, kind=Kind.STALE_VALUE, text="depends on a call made in between")
        return [failed(REPLAY, "another call between forward and backward changes it", ctx.name(place), diagnosis)]
    return []


def _changed(
    ctx: Context, found: list[Tensor], first: list[Tensor], upstream: Sequence[Tensor | None]
) -> Sequence[int]:
    """On a CPU every bit counts; elsewhere sums by atomic additions may come in another order every time."""
    places = [place for place, (a, b) in enumerate(zip(found, first, strict=True)) if not same(a, b)]
    on_cpu = all(g.device.type == "cpu" for g in first)
    return places if on_cpu or not places else different(ctx, found, first, upstream)


def _filled(found: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(e) if g is None else g.detach() for g, e in zip(found, like, strict=True)]


def _twice(ctx: Context, upstream: Sequence[Tensor | None], first: list[Tensor]) -> list[Finding]:
    evaluated = ctx.subject.call()
    try:
        evaluated.vjp(ctx.checked, copies(upstream), retain_graph=True)
        if ctx.subject.seed is not None:
            seed_everything(ctx.subject.seed)
        found = _filled(evaluated.vjp(ctx.checked, copies(upstream)), first)
    except CallFailed:
        return []  # refused, with an error
    for place in _changed(ctx, found, first, upstream):
        words = "a second backward through the same graph (retain_graph) gives another gradient"
        return [failed(REPLAY, words, ctx.name(place), diagnose(found[place], first[place]))]
    return []


def needs_input_grad(ctx: Context) -> list[Finding]:
    """Each subset of the inputs that require a gradient gives the gradients that all together give."""
    if len(ctx.checked) < 2:
        return [not_applicable(NEEDS, "one input only")]
    places = range(len(ctx.checked))
    sizes = range(1, len(places)) if len(places) <= ALL_SUBSETS else (1, len(places) - 1)
    subsets = [subset for size in sizes for subset in itertools.combinations(places, size)]
    upstream = ctx.gaussian()
    expected = ctx.gradients(upstream)
    findings: list[Finding] = []
    for subset in subsets:
        only = ", ".join(ctx.name(place) for place in subset)
        needing = [ctx.checked[place] for place in subset]
        try:
            found = ctx.subject.vjp(upstream, needing=needing)
        except CallFailed as failure:
            findings.append(failed(NEEDS, f"where only {only} needs a gradient its {failure}"))
            continue
        everywhere = list(expected)
        for place, g in zip(subset, found, strict=True):
            everywhere[place] = g
        for place in different(ctx, everywhere, expected, upstream):
            diagnosis = diagnose(everywhere[place], expected[place])
            findings.append(
                failed(NEEDS, f"another one where only {only} needs a gradient", ctx.name(place), diagnosis)
            )
    return findings[:4] or [passed(NEEDS, f"{len(subsets)} subsets of the inputs give the same gradients")]
