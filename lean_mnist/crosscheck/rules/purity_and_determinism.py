"""Every Function changes nothing in place, draws no random numbers in its backward, and repeats itself.

Nor do its gradients depend on which are asked for, or on one tensor being given twice or changed after the forward.
"""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.comparison import place_of_largest
from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.diagnosis import Candidate, Diagnosis, Kind, diagnose, region_of
from lean_mnist.crosscheck.report import Finding, Severity, failed, not_applicable, passed
from lean_mnist.crosscheck.rules import noting_failed_calls, other_gradients, rule
from lean_mnist.crosscheck.subjects.arguments import is_dense, is_float
from lean_mnist.crosscheck.subjects.calls import CallFailed
from lean_mnist.crosscheck.subjects.nodes import custom_nodes, kept_tensors
from lean_mnist.crosscheck.subjects.numbers import norm, same_bits
from lean_mnist.torch_internals import use_deterministic_algorithms

REPLAYS_OF_LARGE = 3  # in which there are many numbers to be off


@contextmanager
def _empty_is_nan() -> Iterator[None]:
    """A block in which ``torch.empty`` and its kin hold NaN, as PyTorch offers in its deterministic mode."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic: Any = torch.utils.deterministic
    filled = deterministic.fill_uninitialized_memory
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operations that have no deterministic kernel
        try:
            use_deterministic_algorithms(True, warn_only=True)
            deterministic.fill_uninitialized_memory = True
            yield
        finally:
            deterministic.fill_uninitialized_memory = filled
            use_deterministic_algorithms(before[0], warn_only=before[1])


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


@rule("uninitialised memory", order=35, points_to=Kind.UNINITIALISED)
def uninitialised_memory(ctx: Context) -> list[Finding]:
    """No output or gradient holds what ``torch.empty`` left, which is NaN here: a kernel that does not write all of it.

    Memory fresh from the system is zero, so that the same shows in some calls only.
    """
    upstream, expected = ctx.probe()
    findings: list[Finding] = []
    with noting_failed_calls(findings, "with uninitialised memory filled with NaN"), _empty_is_nan():
        evaluated = ctx.subject.call()
        outputs = [y.detach().clone() for y in evaluated.outputs]
        gradients = evaluated.gradients(ctx.checked, upstream)
        names = [*(f"output {k}" for k in range(len(outputs))), *(ctx.name(place) for place in range(len(gradients)))]
        for name, found, right in zip(names, (*outputs, *gradients), (*ctx.outputs, *expected), strict=True):
            unwritten = found.isnan() & ~right.isnan()
            if bool(unwritten.any()):
                place = place_of_largest(unwritten.double())
                text = f"{int(unwritten.sum())} of {found.numel()} numbers are never written"
                values = (float(found[place].real), float(right[place].real))
                where = str(region_of(unwritten))
                findings.append(
                    failed(text, name, Diagnosis(Kind.UNINITIALISED, "of torch.empty", where, place, *values))
                )
    return findings or [passed("all that is returned is written")]


@rule("random numbers", order=85, points_to=Kind.RANDOM_NUMBERS, part=True)
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
    upstream, first = ctx.probe()
    remark = ""
    replays = min(ctx.options.replays, REPLAYS_OF_LARGE) if ctx.large else ctx.options.replays
    for _ in range(replays - 1):
        again = ctx.subject.vjp(upstream)
        for place in _changed(ctx, again, first, upstream):
            text = "the same call again gives another gradient"
            diagnosis = replace(diagnose(again[place], first[place]), kind=Kind.NONDETERMINISM, text=text)
            return [failed("not repeatable", ctx.name(place), diagnosis)]
        if not all(map(same_bits, first, again)):
            remark = ", but for the last bits"
    findings: list[Finding] = []
    with noting_failed_calls(findings, "with another call in between"):
        there = ctx.part or ctx
        if there is not ctx:
            upstream, first = there.probe()
        findings += [*_interleaved(there, upstream, first), *_twice(there, upstream, first)]
    stochastic = ""
    if ctx.subject.seed is not None:
        stochastic = (
            f"stochastic: the forward draws random numbers, so torch.manual_seed({ctx.subject.seed}) was called before "
            "every call here; do so yourself, or pass it a generator or the drawn numbers, to have it repeat itself; "
        )
    return findings or [passed(f"{stochastic}{replays} calls, with another in between, give the same bits{remark}")]


def _changed(ctx: Context, found: list[Tensor], first: list[Tensor], upstream: Sequence[Tensor]) -> Sequence[int]:
    """On a CPU every bit counts; elsewhere sums by atomic additions may come in another order every time."""
    places = [place for place, (a, b) in enumerate(zip(found, first, strict=True)) if not same_bits(a, b)]
    on_cpu = all(g.device.type == "cpu" for g in first)
    return places if on_cpu or not places else ctx.differing(found, first, upstream)


def _interleaved(ctx: Context, upstream: Sequence[Tensor], first: list[Tensor]) -> list[Finding]:
    """Two calls, their backwards in either order; and one with forwards alone in between, as evaluation makes them."""
    other = ctx.subject.moved(ctx.generator, 0.5)
    try:
        there = ctx.subject.vjp(upstream, other)
    except CallFailed:  # it may have left the function's domain; then its own inputs will do
        other, there = list(ctx.subject.inputs), first
    alone = [first, there]
    for order in ((0, 1), (1, 0)):
        calls = [ctx.subject.call(inputs) for inputs in (None, other)]
        for k in order:
            found = calls[k].gradients(ctx.checked, upstream)
            for place in _changed(ctx, found, alone[k], upstream):
                return [_of_another_call(ctx, place, found[place], alone[k][place], alone[1 - k][place])]
    evaluated = ctx.subject.call()
    with suppress(CallFailed):
        shorter = ctx.long if ctx.takes_other_sizes else ()
        ctx.subject.values([x[: ctx.length // 2] if i in shorter else x for i, x in enumerate(other)])
    with suppress(CallFailed):
        ctx.subject.call(other, needing=())
    found = evaluated.gradients(ctx.checked, upstream)
    for place in _changed(ctx, found, first, upstream):
        return [_of_another_call(ctx, place, found[place], first[place], there[place])]
    return []


def _of_another_call(ctx: Context, place: int, found: Tensor, expected: Tensor, other: Tensor) -> Finding:
    candidates = [Candidate(Kind.STALE_VALUE, "this is the gradient of the other call", other)]
    diagnosis = diagnose(found, expected, candidates=candidates)
    if diagnosis.kind is not Kind.STALE_VALUE:
        diagnosis = replace(diagnosis, kind=Kind.STALE_VALUE, text="depends on a call made in between")
    return failed("another call between forward and backward changes it", ctx.name(place), diagnosis)


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


ALL_SUBSETS = 4  # of so many inputs; of more, single ones and all but one


@rule("changed input", order=88, points_to=Kind.STALE_VALUE, severity=Severity.WARNING, part=True)
def changed_input(ctx: Context) -> list[Finding]:
    """Inputs changed in place after the forward, as by an optimizer, raise in the backward, or make no difference.

    What ``save_for_backward`` keeps raises; what is kept as an attribute of ``ctx`` is read as it is by then.
    """
    upstream, expected = ctx.probe()
    evaluated = ctx.subject.call()
    with torch.no_grad():
        for x in evaluated.inputs:
            if is_dense(x) and is_float(x):
                x.mul_(1.5).add_(0.5)
    try:
        found = evaluated.gradients(ctx.checked, upstream)
    except CallFailed:
        return [passed("refused with an error")]
    words = "silently another gradient where inputs are changed in place after the forward"
    return other_gradients(ctx, words, found, expected, upstream) or [passed("makes no difference")]


@rule("needs_input_grad", order=100, varies=True, part=True)
def needs_input_grad(ctx: Context) -> list[Finding]:
    """Each subset of the inputs that require a gradient gives the gradients that all together give."""
    if len(ctx.checked) < 2:
        return [not_applicable("one input only")]
    places = range(len(ctx.checked))
    sizes = range(1, len(places)) if len(places) <= ALL_SUBSETS else (1, len(places) - 1)
    subsets = [subset for size in sizes for subset in itertools.combinations(places, size)]
    upstream, expected = ctx.probe()
    findings: list[Finding] = []
    for subset in subsets:
        only = ", ".join(ctx.name(place) for place in subset)
        with noting_failed_calls(findings, f"where only {only} needs a gradient"):
            found = ctx.subject.vjp(upstream, needing=[ctx.checked[place] for place in subset])
            everywhere = {**dict(enumerate(expected)), **dict(zip(subset, found, strict=True))}
            words = f"another one where only {only} needs a gradient"
            findings += other_gradients(ctx, words, list(everywhere.values()), expected, upstream)
    return findings[:4] or [passed(f"{len(subsets)} subsets of the inputs give the same gradients")]


@rule("same tensor twice", order=105, varies=True, part=True)
def same_tensor_twice(ctx: Context) -> list[Finding]:
    """One tensor given as two inputs has the sum of the gradients that two equal tensors have."""
    inputs = ctx.subject.inputs
    kinds = [(inputs[i].shape, inputs[i].dtype, inputs[i].device) for i in ctx.checked]
    alike = [(a, b) for a, b in itertools.combinations(range(len(kinds)), 2) if kinds[a] == kinds[b]]
    if not alike or ctx.subject.clones:
        return [not_applicable("it writes into its inputs" if alike else "no two inputs of one shape")]
    a, b = alike[0]
    i, j = ctx.checked[a], ctx.checked[b]
    equal = [inputs[i] if k == j else x for k, x in enumerate(inputs)]
    upstream = ctx.gaussian()
    try:
        there = ctx.at(equal, "twice")
        apart = there.subject.vjp(upstream)
    except CallFailed as failure:
        return [not_applicable(f"with equal inputs its {failure}")]

    def with_one(*flat: Any) -> Any:
        return ctx.subject(*flat[:j], flat[i], *flat[j + 1 :])

    total = apart[a] + apart[b]
    if not bool(total.isfinite().all()):
        return [not_applicable("with equal inputs the gradients, or their sum, are not finite")]
    found = replace(there.subject, function=with_one, arguments=None).vjp(upstream)[a]
    names = f"{ctx.name(a)} and {ctx.name(b)}"
    if not norm(found.double() - total) <= there.floor(apart[a]) + there.floor(apart[b]):
        allowed = there.allowances(upstream, apart)
        if not norm(found.double() - total) <= allowed[a] + allowed[b]:
            return [failed("one tensor for both has not the sum of their gradients", names, diagnose(found, total))]
    return [passed(f"one for {names} has the sum of their gradients")]
