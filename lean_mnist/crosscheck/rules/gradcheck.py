"""``torch.autograd.gradcheck``, within its limits: float64, few numbers, of ordinary size, with little noise.

Its step is fixed at 1e-6 and its tolerance absolute, so outside these limits it speaks by chance. Slow mode only: fast
mode draws from a fixed seed and widens its tolerance. Near a pole or an edge its step is too large, and it goes through
one graph again and again: what it refuses is asked again with smaller steps and a forward for each backward.
"""

import time
import timeit
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.gradcheck import GradcheckError

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.numerics.differences import MOVE, line_through
from lean_mnist.crosscheck.numerics.kinks import kink_within
from lean_mnist.crosscheck.numerics.step_sizes import noise_of, residuals_along
from lean_mnist.crosscheck.report import GRADCHECK, Finding, failed, kink, not_applicable, passed
from lean_mnist.crosscheck.rules import rule
from lean_mnist.crosscheck.subjects.arguments import floating_outputs
from lean_mnist.crosscheck.subjects.calls import NotChecked, one_line
from lean_mnist.crosscheck.subjects.numbers import in_dtype

# It calls the function twice a number: at most so many numbers, and so many seconds, or what the check took until then.
GRADCHECK_NUMBERS = 2000
GRADCHECK_SECONDS = 2.0
EPS, RTOL, ATOL = 1e-6, 1e-5, 1e-7
SMALLER = (2.0**-24, 2.0**-28)  # below these, rounding is more than ATOL


class _LeftDomain(Exception):
    """A step of gradcheck left the function's domain."""


@rule(GRADCHECK, order=130, oracle=True)
def gradcheck(ctx: Context) -> list[Finding]:
    """``torch.autograd.gradcheck`` in float64 where it suits: few numbers, of ordinary size, little noise."""
    why = _unsuitable(ctx)
    if why:
        return [not_applicable(why)]
    try:
        error = _refusal(ctx, ctx.subject.inputs)
        if not error:
            return [passed(f"rtol {RTOL:g}, in float64")]
        if _at_kink(ctx) and not _refusal(ctx, ctx.subject.moved(ctx.generator, MOVE, torch.float64)):
            return [kink(f"{error}; at a perturbed point it passes")]
        for eps in SMALLER:
            if not _refusal(ctx, ctx.subject.inputs, eps, alone=True):
                return [passed(f"rtol {RTOL:g}, in float64, with a step of {eps:.0e} and a forward for each backward")]
    except _LeftDomain:
        return [not_applicable("its fixed step leaves the function's domain")]
    return [failed(error)]


def _unsuitable(ctx: Context) -> str:
    """The reason why gradcheck does not suit the function at these inputs; empty if it does."""
    inputs = [ctx.subject.inputs[i].detach() for i in ctx.checked]
    numbers = max(sum(x.numel() for x in inputs), sum(y.numel() for y in ctx.outputs))
    if numbers > GRADCHECK_NUMBERS:
        return f"{numbers:,} numbers, more than the {GRADCHECK_NUMBERS:,} that finite differences suit"
    if ctx.options.tolerance:
        return "its fixed step of 1e-6 would show the errors that the tolerance is for"
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
    calls = timeit.Timer(lambda: ctx.subject.vjp(ctx.outputs, dtype=torch.float64), timer=time.monotonic).repeat(3, 1)
    seconds = 2 * numbers * min(calls)
    if seconds > max(GRADCHECK_SECONDS, time.monotonic() - ctx.started):
        return f"{numbers:,} numbers would take it some {seconds:.0f} s"
    return ""


def _at_kink(ctx: Context) -> bool:
    """True if the function has a kink within gradcheck's reach of the point."""
    upstream = [v.double() for v in ctx.gaussian()]
    line = line_through(ctx.subject, range(len(ctx.checked)), torch.float64, ctx.generator, upstream)
    gradients = ctx.subject.vjp(upstream, dtype=torch.float64)
    return kink_within(residuals_along(line, gradients, noise_of(line)), largest=2.0**-15)


class _Domain:
    """The outputs of ``ctx``'s function as gradcheck sees them, and whether its steps left the function's domain."""

    def __init__(self, ctx: Context) -> None:
        self.ctx, self.left, self._finite = ctx, False, list[int]()

    def __call__(self, *arguments: object) -> tuple[Tensor, ...]:
        try:
            outputs = tuple(floating_outputs(self.ctx.subject(*arguments), "function"))
        except Exception:
            self.left = bool(self._finite)  # it did not raise at the point itself
            raise
        finite = [int(y.isfinite().sum()) for y in outputs]
        self._finite = self._finite or finite
        self.left |= finite != self._finite
        return outputs

    def alone(self, *arguments: object) -> Any:
        """The same, as a Function each of whose backwards has a forward of its own."""
        ctx, outputs_of = self.ctx, self

        class Alone(torch.autograd.Function):
            @staticmethod
            def forward(node: Any, *inputs: Any) -> tuple[Tensor, ...]:
                node.inputs = [x.detach() if isinstance(x, Tensor) else x for x in inputs]
                outputs = outputs_of(*node.inputs)
                fixed = [y for y, moves in zip(outputs, ctx.differentiable, strict=True) if not moves]
                node.mark_non_differentiable(*fixed)
                return outputs

            @staticmethod
            @once_differentiable
            def backward(node: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
                found = dict(zip(ctx.checked, ctx.subject.vjp(upstream, node.inputs), strict=True))
                return tuple(found.get(i) for i in range(len(node.inputs)))

        return Alone.apply(*arguments)


def _refusal(ctx: Context, inputs: Sequence[object], eps: float = EPS, alone: bool = False) -> str:
    """The reason why ``gradcheck`` refuses the function at ``inputs``, in a line; empty if it does not.

    ``alone``: with a forward of its own for each backward. Raises ``_LeftDomain``.
    """
    given = [x.clone() if isinstance(x, Tensor) else x for x in in_dtype(inputs, torch.float64)]
    for i in ctx.checked:
        given[i].requires_grad_()
    function = _Domain(ctx)
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # about inputs that are too large or not dense, which is seen to above
            # Sums by atomic additions come in another order every time.
            nondet = 0.0 if all(y.device.type == "cpu" for y in ctx.outputs) else 1e-10
            asked = function.alone if alone else function
            torch.autograd.gradcheck(asked, given, eps=eps, rtol=RTOL, atol=ATOL, nondet_tol=nondet)
    except GradcheckError as error:
        refusal = one_line(error, 160)
    except Exception as error:  # the function's own, called in a way that was not tried before
        if NotChecked.of(error):
            raise
        refusal = f"{type(error).__name__}: {one_line(error, 160)}"
    else:
        return ""
    if function.left:
        raise _LeftDomain
    return refusal
