"""Gradients under ``torch.autocast`` must equal those without it, up to the rounding of the lower precision.

Where nothing was computed in a lower precision, that is the rounding of their own. Elsewhere it is that of bfloat16,
measured by how far gradients scatter under ulp perturbations. Rounding errors are many and of both signs, a wrong
factor is one: so the factor by which the gradient is larger is held against its scatter, too, small for many numbers.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.diagnosis import Diagnosis, diagnose
from lean_mnist.crosscheck.perturbation import Perturbing, perturbed_inputs, under
from lean_mnist.crosscheck.report import Finding, Severity, failed, not_applicable, passed
from lean_mnist.crosscheck.rules import rule
from lean_mnist.crosscheck.subjects.calls import CallFailed, one_line
from lean_mnist.crosscheck.subjects.numbers import norm, same_bits
from lean_mnist.torch_internals import DispatchMode, operation_name, returns_a_view

AUTOCAST = "autocast"
BFLOAT16_UNIT = torch.finfo(torch.bfloat16).eps / 2
LOWERED = (torch.bfloat16, torch.float16)
# The least that rounding explains, in units of bfloat16's rounding, and how many times what is seen to
# scatter. A result that is moved by a unit in its last place scatters about three times as far as rounding moves it.
FLOOR_UNITS = 2.0
SPREAD_FACTOR = 3.0
# So often are results perturbed before a difference counts. Seldom are so many needed, but a pre-activation that
# rounding puts on the other side of a kink, and with it much of a small gradient, does so in some of the draws only.
DRAWS = 24

PRECISION = 1e-5  # that of a gradient computed in float32

_Run = Callable[..., "tuple[list[Tensor], list[Tensor]]"]


@rule("precision", order=5, severity=Severity.WARNING)
def precision(ctx: Context) -> list[Finding]:
    """Given float64, it computes in float64; if not, all that follows is asked for to the precision of float32."""
    if ctx.dtypes[0] != torch.float64:
        return [not_applicable("the inputs are not float64")]
    if not ctx.lowered:
        return [passed("computed in float64")]
    ctx.options = replace(ctx.options, tolerance=max(ctx.options.tolerance, PRECISION))
    return [failed(f"given float64, {ctx.why_not_float64}; compared to {PRECISION:g}")]


@rule(AUTOCAST, order=120, varies=True, part=True)
def autocast(ctx: Context) -> list[Finding]:
    """Under ``torch.autocast`` in bfloat16: an error, or the gradients without it, as its precision lets them be."""
    device = ctx.subject.inputs[ctx.checked[0]].device.type
    if torch.float32 not in ctx.dtypes:
        return [not_applicable("it acts on float32 inputs only")]
    if not torch.amp.is_autocast_available(device):
        return [not_applicable(f"there is none on {device}")]
    upstream, expected = ctx.probe()

    def run(whole: bool, inputs: Sequence[Any] | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs and gradients with the forward, or the whole, under autocast."""
        with torch.autocast(device, torch.bfloat16):
            evaluated = ctx.subject.call(inputs)
            if whole:
                gradients = evaluated.gradients(ctx.checked, upstream)
        if not whole:
            gradients = evaluated.gradients(ctx.checked, upstream)
        return [y.detach() for y in evaluated.outputs], gradients

    texts: list[str] = []
    for words, whole in (("the forward", False), ("forward and backward", True)):
        try:
            outputs, found = run(whole)
            same = [y.dtype for y in outputs] == [y.dtype for y in ctx.outputs]
            same = same and all(map(same_bits, outputs, ctx.outputs))
            lowered = not same or _computes_lower(functools.partial(run, whole))
            if lowered:
                again = functools.partial(_perturbed, ctx, run, whole)
                places = unexplained(found, expected, again, ctx.options.tolerance)
            else:
                places = ctx.differing(found, expected, upstream)
        except CallFailed as failure:
            texts.append(f"refused with an error (its {one_line(failure, 120)})")
            continue
        for place in places:
            text = f"{words} under it give another gradient"
            text += "" if lowered else ", though nothing was computed in a lower precision"
            return [failed(text, ctx.name(place), diagnose_lower(found[place], expected[place], lowered))]
        texts.append("within bfloat16's precision" if lowered else "the same as without it")
    return [passed("; ".join(dict.fromkeys(texts)))]


def diagnose_lower(found: Tensor, expected: Tensor, lowered: bool = True) -> Diagnosis:
    """``diagnose``, where ``lowered`` with a tolerance for what a lower precision does to each element."""
    tolerance = 0.05 * norm(expected) / max(expected.numel(), 1) ** 0.5 if lowered else None
    return diagnose(found.to(expected.dtype), expected, tolerance=tolerance)


def unexplained(
    found: Sequence[Tensor], expected: Sequence[Tensor], again: Callable[[], list[Tensor]], tolerance: float = 0.0
) -> list[int]:
    """The places where rounding to bfloat16 does not explain that ``found`` is not ``expected``.

    ``again`` gives ``found`` with ulp perturbations. Numbers that are not finite are explained by nothing.
    """
    measures = [_measures(g, e, e) for g, e in zip(found, expected, strict=True)]
    floor = [(FLOOR_UNITS * BFLOAT16_UNIT + tolerance) * norm(e) + torch.finfo(torch.float32).tiny for e in expected]
    allowed = [[least] * len(m) for least, m in zip(floor, measures, strict=True)]

    def suspects() -> list[int]:
        over = [any(not m <= a for m, a in zip(*both, strict=True)) for both in zip(measures, allowed, strict=True)]
        return [place for place, wrong in enumerate(over) if wrong]

    for _ in range(DRAWS):
        if not suspects():
            break
        for place, drawn in enumerate(again()):
            spread = _measures(drawn, found[place], expected[place])
            explained = [floor[place] + SPREAD_FACTOR * s for s in spread if math.isfinite(s)]
            allowed[place] = [max(pair) for pair in zip(allowed[place], explained or allowed[place], strict=True)]
    return suspects()


def _measures(a: Tensor, b: Tensor, direction: Tensor) -> tuple[float, float]:
    """The size of ``a − b``, and that of its part along ``direction``."""
    difference, along = a.double() - b.double(), direction.double()
    part = abs(float((difference * along).sum())) / max(norm(along), torch.finfo(torch.float64).tiny)
    return norm(difference), part


def _perturbed(ctx: Context, run: _Run, whole: bool) -> list[Tensor]:
    moved = functools.partial(perturbed_inputs, ctx.subject, ctx.generator, BFLOAT16_UNIT)
    return under(Perturbing(ctx.generator), lambda: run(whole), otherwise=lambda: run(whole, moved()))[1]


class _Watch(DispatchMode):
    """Notes whether any operation computes in a lower precision. Converting to one and back is no computation."""

    def __init__(self) -> None:
        super().__init__()
        self.lowered = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        results = result if isinstance(result, (tuple, list)) else [result]
        if not returns_a_view(func) and operation_name(func) not in ("_to_copy", "clone"):
            self.lowered |= any(isinstance(x, Tensor) and x.dtype in LOWERED for x in results)
        return result


def _computes_lower(run: Callable[[], object]) -> bool:
    watch = _Watch()

    def lowered() -> bool:
        run()
        return watch.lowered

    return under(watch, lowered, otherwise=lambda: True)
