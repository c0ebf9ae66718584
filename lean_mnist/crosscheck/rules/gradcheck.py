"""``torch.autograd.gradcheck``, within its limits: float64, few numbers, of ordinary size, with little noise.

Its step is fixed at 1e-6 and its tolerance absolute, so what it says of a function outside these limits is chance. Slow
mode only: fast mode draws its vectors from a fixed seed and widens its tolerance with their size.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from lean_mnist.crosscheck.calls import one_line, seed_everything
from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.numerics import step_sizes as ladders
from lean_mnist.crosscheck.numerics.differences import joint_line
from lean_mnist.crosscheck.report import Finding, failed, kink, not_applicable, passed

GRADCHECK = "gradcheck"
# It calls the function twice an input number; beyond this many it would take minutes.
GRADCHECK_NUMBERS = 2000
EPS, RTOL, ATOL = 1e-6, 1e-5, 1e-7
MOVE = 0.02  # by how much of its size a point at a kink is moved


def gradcheck(ctx: Context) -> tuple[str, list[Finding]]:
    """``torch.autograd.gradcheck`` in float64 where it suits: few numbers, of ordinary size, little noise."""
    numbers = sum(ctx.subject.inputs[i].numel() for i in ctx.checked)
    outputs = sum(y.numel() for y in ctx.outputs)
    why = ""
    if max(numbers, outputs) > GRADCHECK_NUMBERS:
        limit = f"more than the {GRADCHECK_NUMBERS:,} that finite differences suit"
        why = f"{max(numbers, outputs):,} numbers, {limit}"
    elif ctx.float64:
        why = f"the function does not take float64 ({ctx.float64})"
    else:
        why = _unsuitable(ctx)
    if why:
        return f"not run: {why}", [not_applicable(GRADCHECK, why)]
    error = _run_gradcheck(ctx, ctx.subject.inputs)
    if not error:
        return "passed", [passed(GRADCHECK, f"rtol {RTOL:g}, in float64")]
    if _at_kink(ctx) and not _run_gradcheck(ctx, ctx.subject.moved(ctx.generator, MOVE, torch.float64)):
        return f"kink: {error}", [kink(GRADCHECK, f"{error}; a little aside it passes")]
    return f"failed: {error}", [failed(GRADCHECK, error)]


def _unsuitable(ctx: Context) -> str:
    for place, i in enumerate(ctx.checked):
        x = ctx.subject.inputs[i]
        largest = float(x.detach().abs().max()) if x.numel() else 0.0
        if largest > 1e4 or 0 < largest < 1e-3:
            return f"numbers as large as {largest:.1g} in {ctx.name(place)} do not suit its fixed step of 1e-6"
    return ""


def _at_kink(ctx: Context) -> bool:
    """Whether the function has a kink within gradcheck's reach of the point."""
    upstream = [v.double() for v in ctx.gaussian() if v is not None]
    line = joint_line(ctx, upstream)
    gradients = [g.double() for g in ctx.subject.vjp(upstream, dtype=torch.float64)]
    noise = ladders.noise_of(line, ladders.SPACINGS[torch.float64])
    rungs = ladders.climb(line, gradients, noise, ladders.STEPS[torch.float64])
    return ladders.kinked(rungs, largest=2.0**-15)


def _run_gradcheck(ctx: Context, inputs: Sequence[object]) -> str:
    """Why ``gradcheck`` refuses the function at ``inputs``, in a line; empty if it does not."""
    given: Any = []
    for i, x in enumerate(inputs):
        if isinstance(x, Tensor):
            x = x.detach().clone()
            x = x.double() if x.is_floating_point() else x
            x.requires_grad_(i in ctx.checked)
        given.append(x)

    def function(*arguments: object) -> tuple[Tensor, ...]:
        if ctx.subject.seed is not None:
            seed_everything(ctx.subject.seed)
        copies = [x.clone() if ctx.subject.clones and isinstance(x, Tensor) else x for x in arguments]
        result = ctx.subject.function(*copies)
        every = [result] if isinstance(result, Tensor) else list(result)
        return tuple(y for y in every if isinstance(y, Tensor) and y.is_floating_point())

    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # about inputs that are too large or not dense, which is seen to above
            # Sums by atomic additions come in another order every time.
            nondet = 0.0 if all(y.device.type == "cpu" for y in ctx.outputs) else 1e-10
            torch.autograd.gradcheck(function, given, eps=EPS, rtol=RTOL, atol=ATOL, nondet_tol=nondet)
    except GradcheckError as error:
        return one_line(error, 160)
    except Exception as error:  # the function's own, called in a way that was not tried before
        return f"{type(error).__name__}: {one_line(error, 160)}"
    return ""
