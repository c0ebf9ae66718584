"""How far rounding may put a step's numbers off: of a product, and of an elementwise function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.audit.reference import ACTIVATIONS

# An inner product of n terms is off by λ √n units of rounding, relative to its factors' norms, with probability below
# 1e-13 (Higham and Mary, 2019); two implementations of an elementwise function differ by a few units.
LAMBDA = 8.0
# All elements of a product together are off by hardly more than four times what is expected of them. Where they are,
# the terms may stand in an order that makes partial sums large; so before it counts, plain PyTorch sums the same
# product in other orders, and the error may be ten times the largest of theirs.
TOGETHER, ORDERS, ORDERS_FACTOR = 4.0, 3, 10.0
ELEMENTWISE_ULPS = 32.0
# What a 16-bit number may be off in the end, in its units, where it was a sum in float32 before.
ROUNDINGS = 3.0


class Together(NamedTuple):
    """The rounding of a product: the 2-norm that is expected of all elements together, and what other orders give.

    ``measured`` gives the largest element as a share of what is allowed one, and the largest 2-norm.
    """

    typical: float
    measured: Callable[[], tuple[float, float]]


def unit_of(x: Tensor) -> float:
    """The unit of rounding of ``x``'s precision."""
    return torch.finfo(x.dtype).eps / 2


def sum_unit_of(x: Tensor) -> float:
    """The unit of rounding in which sums of products that end in ``x``'s precision are formed: at least float32's."""
    return min(unit_of(x), torch.finfo(torch.float32).eps / 2)


def _rounding(x: Tensor) -> float:
    """What ``LAMBDA`` standard deviations of the rounding of one of the sums that ``x``'s numbers are."""
    return LAMBDA * sum_unit_of(x)


def underflow_of(x: Tensor) -> float:
    """What gradual underflow may hide in a sum of some thousand terms."""
    return 1e4 * torch.finfo(x.dtype).tiny


def derivative_of(name: str, z: Tensor) -> Tensor:
    """``σ'(z)`` by PyTorch's autograd, in ``z``'s precision."""
    with torch.enable_grad():
        at = z.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(ACTIVATIONS[name](at).sum(), at)
    return slope


class Exact(NamedTuple):
    """A product in float64, and how far rounding may put each element of it off, and all of them together."""

    value: Tensor
    allowed: Tensor
    together: Together


def product_of(left: Tensor, right: Tensor, like: Tensor, plus: Tensor | None = None) -> Exact:
    """``left @ right + plus`` in float64, beside its rounding in ``like``'s precision.

    Together it is typically ``u √n (Σ_k ‖left[:, k]‖² ‖right[k, :]‖² + ‖value‖²)^½``: partial sums of n terms grow like
    a random walk or towards their sum.
    """
    a, b = left.double(), right.double()
    exact, count, tiny = a @ b, math.sqrt(a.shape[1] + 1), underflow_of(like)
    # A sum formed in float32 and then rounded to 16 bits, once or, with something added, twice.
    ending = 0.0 if sum_unit_of(like) == unit_of(like) else ROUNDINGS * unit_of(like)
    rows, parts_a, parts_b = a.norm(dim=1), a.square().sum(0), b.square().sum(1)
    allowed = torch.outer(rows * (_rounding(like) * count), b.norm(dim=0)).add_(tiny)
    terms = float((parts_a * parts_b).sum())
    if plus is not None:
        exact += plus.double()
        allowed += _rounding(like) * count * plus.double().abs()
        terms += float(plus.double().square().sum()) * len(a)
    allowed += ending * exact.abs()
    if plus is not None:
        allowed += ending * plus.double().abs()
    together = math.hypot(math.sqrt(terms), float(exact.norm()))
    typical = sum_unit_of(like) * count * together + ending * float(exact.norm()) + tiny * math.sqrt(exact.numel())

    def measured() -> tuple[float, float]:
        generator, element, norm = torch.Generator().manual_seed(0), 0.0, 0.0
        for _ in range(ORDERS):
            order = torch.randperm(a.shape[1], generator=generator).to(a.device)
            again = left[:, order].to(like.dtype) @ right[order].to(like.dtype)
            error = ((again if plus is None else again + plus).double() - exact).abs().nan_to_num(nan=0, posinf=0)
            element, norm = max(element, float((error / allowed).amax())), max(norm, float(error.norm()))
        return element, norm

    return Exact(exact, allowed, Together(typical, measured))
