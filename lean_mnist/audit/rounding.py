"""Tolerances: the rounding error to expect in a correct product, probed product or elementwise function.

Bounds follow the probabilistic model of Higham and Mary (2019): rounding errors are independent and of mean zero, so
that a sum of n terms is off by at most ``λ √n u`` times the size of its terms, except with probability
``2 exp(−λ²/2)``. That is a model, not a proof; the enclosure is the proof.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LAMBDA = 8.0  # except with probability below 1e-13
# All elements of a product together are off by hardly more than four times the typical 2-norm. Where they are, the
# terms may stand in an order that makes partial sums large; so before it counts, plain PyTorch sums the same product
# in other orders, and the error may be ten times the largest of theirs.
TOGETHER, ORDERS, ORDERS_FACTOR = 4.0, 3, 10.0
# Two right implementations of an elementwise function differ by a few units of rounding.
ELEMENTWISE_ULPS = 32.0
# Error of a 16-bit number, in its units, where it was a sum in float32 before it was rounded.
ROUNDINGS = 3.0
# Up to some thousand products may have underflowed.
UNDERFLOWS = 1e4


def unit_of(x: Tensor) -> float:
    """Unit of rounding ``u`` of ``x``'s precision."""
    return torch.finfo(x.dtype).eps / 2


def underflow_of(x: Tensor) -> float:
    """Error that gradual underflow may hide in a sum of some thousand terms."""
    return UNDERFLOWS * torch.finfo(x.dtype).tiny


class Residual(NamedTuple):
    """A tensor of a step beside its exact value in float64, and what rounding explains of their difference.

    ``typical`` and ``other_orders`` are ``None`` where only single elements are bounded.
    """

    ours: Tensor
    exact: Tensor
    allowed: Tensor
    typical: float | None = None  # 2-norm that rounding is expected to have in all elements together
    # Largest element (as a share of ``allowed``) and largest 2-norm that other orders of summation give.
    other_orders: Callable[[], tuple[float, float]] | None = None

    @property
    def share(self) -> float:
        """Largest error as a share of what rounding explains, of an element or of all together; NaN where it is NaN."""
        if not self.ours.numel():
            return 0.0
        error = (self.exact - self.ours).abs_()
        of_elements = float((error / self.allowed).amax())
        if self.typical is None or self.other_orders is None or not math.isfinite(of_elements):
            return of_elements
        size = float(error.norm())
        of_all = size / (TOGETHER * self.typical)
        if max(of_elements, of_all) > 1:
            element, norm = self.other_orders()
            of_elements /= max(1.0, ORDERS_FACTOR * element)
            of_all = min(of_all, size / max(ORDERS_FACTOR * norm, TOGETHER * self.typical))
        return max(of_elements, of_all)


def product_residual(ours: Tensor, left: Tensor, right: Tensor, plus: Tensor | None = None) -> Residual:
    """``ours`` beside ``left @ right + plus`` in float64, of any precisions; ``ours`` may be one column.

    All elements together are typically off by ``u √n (Σ_k ‖left[:, k]‖² ‖right[k, :]‖² + ‖exact‖²)^½``: partial sums of
    n terms grow like a random walk or towards their sum.
    """
    like = ours if unit_of(ours) >= unit_of(left) else left
    # Sums of products are formed in float32 at least.
    unit, tiny = min(unit_of(like), torch.finfo(torch.float32).eps / 2), underflow_of(like)
    a, b = left.double(), right.double()
    exact, count = a @ b, math.sqrt(a.shape[1] + 1)
    # A sum formed in float32 and then rounded to 16 bits, once or, with something added, twice.
    ending = 0.0 if unit == unit_of(like) else ROUNDINGS * unit_of(like)
    allowed = torch.outer(a.norm(dim=1) * (LAMBDA * unit * count), b.norm(dim=0)).add_(tiny)
    terms = float((a.square().sum(0) * b.square().sum(1)).sum())
    if plus is not None:
        exact += plus.double()
        allowed += (LAMBDA * unit * count + ending) * plus.double().abs()
        terms += float(plus.double().square().sum()) * len(a)
    if ending:
        allowed += ending * exact.abs()
    size = float(exact.norm())
    typical = unit * count * math.hypot(math.sqrt(terms), size) + ending * size + tiny * math.sqrt(exact.numel())

    def other_orders() -> tuple[float, float]:
        generator, element, norm = torch.Generator().manual_seed(0), 0.0, 0.0
        for _ in range(ORDERS):
            order = torch.randperm(a.shape[1], generator=generator).to(a.device)
            again = left[:, order].to(like.dtype) @ right[order].to(like.dtype)
            error = ((again if plus is None else again + plus).double() - exact).abs().nan_to_num(nan=0, posinf=0)
            element, norm = max(element, float((error / allowed).amax())), max(norm, float(error.norm()))
        return element, norm

    return Residual(ours, exact.reshape(ours.shape), allowed.reshape(ours.shape), typical, other_orders)


def probed_product_shares(
    ours: Tensor, parts: list[tuple[Tensor, Tensor]], plus: Tensor | None, probe: Tensor
) -> Tensor:
    """Residual of each row of ``ours = Σ left @ right + plus`` along ``probe``, as a share of what rounding explains.

    Freivalds (1977): ``ours p = left (right p) + plus · p`` takes products of a matrix and a vector only. A row of norm
    ``r`` times its threshold passes with probability at most ``√2 / r`` (:mod:`.randomised`).
    """
    inner, outer = sum(right.shape[0] for _, right in parts), parts[0][1].shape[1]
    expected = total([left @ (right @ probe) for left, right in parts])
    size = total([norms(left, 1) * norms(right) for left, right in parts])
    if plus is not None:
        expected, size = expected + plus @ probe, size + norms(plus)
    terms = LAMBDA * math.sqrt(inner + outer + (plus is not None))
    return share_of(ours @ probe - expected, terms * size)


def summed_product_shares(ours: Tensor, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Error in float64 of each element of a column ``ours = Σ left @ right``, as a share of what rounding explains."""
    exact = total([(left.double() @ right.double())[:, 0] for left, right in parts])
    size = total([(left.abs() @ right.abs())[:, 0] for left, right in parts])
    terms = LAMBDA * math.sqrt(sum(right.shape[0] for _, right in parts))
    return share_of(ours.double() - exact, terms * size, unit_of(ours))


def norms(x: Tensor, dim: int | None = None) -> Tensor:
    """2-norms along ``dim``, or of all of ``x``, with what underflowing squares can hide from a norm added back."""
    terms = x.numel() if dim is None else x.shape[dim]
    return torch.linalg.vector_norm(x, dim=dim) + math.sqrt(terms * torch.finfo(x.dtype).tiny)


def share_of(residual: Tensor, size: Tensor, unit: float | None = None) -> Tensor:
    """``|residual| / (size · u + underflow)``: a residual of exactly 0 is no share of anything."""
    underflow = UNDERFLOWS * torch.finfo(residual.dtype if unit is None else torch.float32).tiny
    return residual.abs() / (size * (unit_of(residual) if unit is None else unit) + underflow)


def total(parts: list[Tensor]) -> Tensor:
    """Sum of tensors of one shape."""
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
