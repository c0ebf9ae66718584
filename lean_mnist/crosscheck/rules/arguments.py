"""Gradients do not depend on which are asked for, nor on one tensor being given twice or changed after the forward."""

import itertools
from dataclasses import replace
from typing import Any

import torch

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.diagnosis import Kind, diagnose
from lean_mnist.crosscheck.report import Finding, Severity, failed, not_applicable, passed
from lean_mnist.crosscheck.rules import noting_failed_calls, other_gradients, rule
from lean_mnist.crosscheck.subjects.arguments import is_dense, is_float
from lean_mnist.crosscheck.subjects.calls import CallFailed
from lean_mnist.crosscheck.subjects.numbers import norm

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
    found = replace(there.subject, function=with_one, arguments=None).vjp(upstream)[a]
    names = f"{ctx.name(a)} and {ctx.name(b)}"
    if not norm(found.double() - total) <= there.floor(apart[a]) + there.floor(apart[b]):
        allowed = there.allowances(upstream, apart)
        if not norm(found.double() - total) <= allowed[a] + allowed[b]:
            return [failed("one tensor for both has not the sum of their gradients", names, diagnose(found, total))]
    return [passed(f"one for {names} has the sum of their gradients")]
