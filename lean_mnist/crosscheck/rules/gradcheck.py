"""``torch.autograd.gradcheck``, within its limits: float64, few numbers, of ordinary size, with little noise.

Its step is fixed at 1e-6 and its tolerance absolute, so what it says of a function outside these limits is chance. Slow
mode only: fast mode draws its vectors from a fixed seed and widens its tolerance with their size.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.numerics.differences import MOVE, line_through
from lean_mnist.crosscheck.numerics.kinks import kink_within
from lean_mnist.crosscheck.numerics.step_sizes import noise_of, residuals_along
from lean_mnist.crosscheck.report import GRADCHECK, Finding, failed, kink, not_applicable, passed
from lean_mnist.crosscheck.rules import rule
from lean_mnist.crosscheck.subjects.arguments import floating_outputs
from lean_mnist.crosscheck.subjects.calls import in_dtype, one_line

# It calls the function twice an input number; beyond this many it would take minutes.
GRADCHECK_NUMBERS = 2000
EPS, RTOL, ATOL = 1e-6, 1e-5, 1e-7


@rule(GRADCHECK, order=130, oracle=True)
def gradcheck(ctx: Context) -> list[Finding]:
    """``torch.autograd.gradcheck`` in float64 where it suits: few numbers, of ordinary size, little noise."""
    why = _unsuitable(ctx)
    if why:
        return [not_applicable(why)]
    error = _refusal(ctx, ctx.subject.inputs)
    if not error:
        return [passed(f"rtol {RTOL:g}, in float64")]
    if _at_kink(ctx) and not _refusal(ctx, ctx.subject.moved(ctx.generator, MOVE, torch.float64)):
        return [kink(f"{error}; at a perturbed point it passes")]
    return [failed(error)]


def _unsuitable(ctx: Context) -> str:
    """The reason why gradcheck does not suit the function at these inputs; empty if it does."""
    inputs = [ctx.subject.inputs[i].detach() for i in ctx.checked]
    numbers = max(sum(x.numel() for x in inputs), sum(y.numel() for y in ctx.outputs))
    if numbers > GRADCHECK_NUMBERS:
        return f"{numbers:,} numbers, more than the {GRADCHECK_NUMBERS:,} that finite differences suit"
    if ctx.smooth is not None:
        return "it asks for the derivative of the forward, not of derivative_of"
    if ctx.subject.source is not None:
        return "it asks by torch.autograd.grad, and gradients are read elsewhere"
    if ctx.why_not_float64:
        return f"the function does not take float64 ({ctx.why_not_float64})"
    for place, x in enumerate(inputs):
        largest = float(x.abs().max()) if x.numel() else 0.0
        if largest > 1e4 or 0 < largest < 1e-3:
            return f"numbers as large as {largest:.1g} in {ctx.name(place)} do not suit its fixed step of 1e-6"
    return ""


def _at_kink(ctx: Context) -> bool:
    """True if the function has a kink within gradcheck's reach of the point."""
    upstream = [v.double() for v in ctx.gaussian()]
    line = line_through(ctx.subject, range(len(ctx.checked)), torch.float64, ctx.generator, upstream)
    gradients = ctx.subject.vjp(upstream, dtype=torch.float64)
    return kink_within(residuals_along(line, gradients, noise_of(line)), largest=2.0**-15)


def _refusal(ctx: Context, inputs: Sequence[object]) -> str:
    """The reason why ``gradcheck`` refuses the function at ``inputs``, in a line; empty if it does not."""
    given = [x.clone() if isinstance(x, Tensor) else x for x in in_dtype(inputs, torch.float64)]
    for i in ctx.checked:
        given[i].requires_grad_()

    def function(*arguments: object) -> tuple[Tensor, ...]:
        return tuple(floating_outputs(ctx.subject(*arguments), "function"))

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
