"""``check_function``: is the backward of any ``torch.autograd.Function`` the derivative of its forward?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from lean_mnist.crosscheck.comparison import Divergence, compare
from lean_mnist.errors import ArgumentError, GradientMismatch

# gradcheck calls the function twice an input number; beyond this many it would take minutes.
GRADCHECK_NUMBERS = 2000


@dataclass(frozen=True)
class FunctionReport:
    """What ``check_function`` found. ``print`` it, ask ``ok``, or ``raise_if_failed()``."""

    outputs: tuple[Divergence, ...]
    gradients: tuple[Divergence, ...]
    gradcheck: str  # "passed", or why it failed or was not run
    seed: int

    @property
    def ok(self) -> bool:
        everything_close = all(divergence.passed for divergence in (*self.outputs, *self.gradients))
        return everything_close and not self.gradcheck.startswith("failed")

    def raise_if_failed(self) -> None:
        """Raise ``GradientMismatch`` with this report as its message unless everything passed."""
        if not self.ok:
            raise GradientMismatch(str(self))

    def __str__(self) -> str:
        lines = [f"{'passed' if self.ok else 'FAILED'} (seed {self.seed})"]
        for divergence in (*self.outputs, *self.gradients):
            lines.append(f"  {'passed' if divergence.passed else 'FAILED'}  {divergence}")
        return "\n".join([*lines, f"  gradcheck: {self.gradcheck}"])


def check_function(
    function: Callable[..., Any],
    reference: Callable[..., Any],
    inputs: Sequence[Any],
    *,
    names: Sequence[str] | None = None,
    seed: int | None = None,
) -> FunctionReport:
    """Check ``function`` (say ``MyFunction.apply``) and its gradients against ``reference``, in plain PyTorch.

    For random upstream gradients ``v`` (Gaussian, from ``seed``, a fresh one each time if not given), ``function``'s
    outputs and ``vᵀ ∂outputs/∂input`` for every input that requires a gradient are compared with those of ``reference``
    in float64; ``reference`` in the inputs' own precision says how much rounding explains. Where there are few enough
    numbers, ``torch.autograd.gradcheck`` is run on ``function`` in float64 as well.

    Args:
        inputs: arguments of both functions, on any device; floating tensors with ``requires_grad`` are checked.
        names: of the inputs, for the report.

    Raises ``ArgumentError`` if the question makes no sense (no input requires a gradient, outputs of other shapes); a
    wrong gradient is not an error but a report that is not ``ok``.
    """
    names = list(names) if names is not None else [f"input {i}" for i in range(len(inputs))]
    if len(names) != len(inputs):
        raise ArgumentError(f"names: expected {len(inputs)}, one an input, found {len(names)}")
    checked = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    if not checked:
        raise ArgumentError("inputs: expected at least one floating tensor with requires_grad, found none")
    seed = torch.seed() % 2**63 if seed is None else seed
    ours = _outputs(function, _fresh(inputs, None), "function")
    baseline = _outputs(reference, _fresh(inputs, None), "reference")
    exact = _outputs(reference, _fresh(inputs, torch.float64), "reference")
    if [y.shape for y in ours.outputs] != [y.shape for y in exact.outputs]:
        shapes = [[tuple(y.shape) for y in result.outputs] for result in (exact, ours)]
        raise ArgumentError(f"function: expected outputs of the reference's shapes {shapes[0]}, found {shapes[1]}")

    generator = torch.Generator().manual_seed(seed)
    upstream = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.device) for y in exact.outputs]
    gradients = [result.gradients(checked, upstream) for result in (ours, exact, baseline)]
    return FunctionReport(
        outputs=tuple(
            compare(f"output {i}", y.detach(), exactly.detach(), plain.detach())
            for i, (y, exactly, plain) in enumerate(zip(ours.outputs, exact.outputs, baseline.outputs, strict=True))
        ),
        gradients=tuple(
            compare(f"gradient of {names[i]}", ours_i, exact_i, baseline_i)
            for i, ours_i, exact_i, baseline_i in zip(checked, *gradients, strict=True)
        ),
        gradcheck=_gradcheck(function, _fresh(inputs, torch.float64), checked),
        seed=seed,
    )


@dataclass(frozen=True)
class _Evaluated:
    inputs: list[Any]
    outputs: list[Tensor]

    def gradients(self, checked: Sequence[int], upstream: Sequence[Tensor]) -> list[Tensor]:
        wanted = [self.inputs[i] for i in checked]
        differentiable = [(y, v) for y, v in zip(self.outputs, upstream, strict=True) if y.requires_grad]
        found = torch.autograd.grad(
            [y for y, _ in differentiable], wanted, [v.to(y.dtype) for y, v in differentiable], allow_unused=True
        )
        # No gradient at all means a gradient of zero.
        return [torch.zeros_like(x) if g is None else g for x, g in zip(wanted, found, strict=True)]


def _fresh(inputs: Sequence[Any], dtype: torch.dtype | None) -> list[Any]:
    """Copies that share neither memory nor graph with the caller's, floating ones in ``dtype``."""
    return [
        x.detach().clone().to(dtype if x.is_floating_point() and dtype else x.dtype).requires_grad_(x.requires_grad)
        if isinstance(x, Tensor)
        else x
        for x in inputs
    ]


def _outputs(function: Callable[..., Any], inputs: list[Any], role: str) -> _Evaluated:
    with torch.enable_grad():
        result = function(*inputs)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    outputs = [y for y in outputs if isinstance(y, Tensor) and y.is_floating_point()]
    if not any(y.requires_grad for y in outputs):
        raise ArgumentError(f"{role}: expected an output that depends on an input with requires_grad, found none")
    return _Evaluated(inputs, outputs)


def _gradcheck(function: Callable[..., Any], inputs: list[Any], checked: Sequence[int]) -> str:
    numbers = sum(inputs[i].numel() for i in checked)
    if numbers > GRADCHECK_NUMBERS:
        return f"not run: {numbers:,} numbers, more than the {GRADCHECK_NUMBERS:,} that finite differences suit"
    try:
        torch.autograd.gradcheck(function, inputs)
    except GradcheckError as error:
        return f"failed: {' '.join(str(error).split())}"
    except (RuntimeError, TypeError, ValueError) as error:  # the user's function may not take float64 at all
        return f"not run: the function does not take float64 ({' '.join(str(error).split())})"
    return "passed"
