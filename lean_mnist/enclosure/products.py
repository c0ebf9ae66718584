"""Products of matrices whose midpoints are almost as good as if computed exactly and rounded once.

A plain product of n terms is off by ``γ_n |a||b|``, and what a forward pass loses there, every later layer amplifies.
So the forward's products are split by an error-free transformation: ``a = a₁ + a₂`` and ``b = b₁ + b₂``, exactly, with
``a₁`` and ``b₁`` so short that ``a₁ b₁`` is computed without any rounding, in whatever order. What rounds is
``a₁ b₂ + a₂ b``, about 2⁻²⁰ times as large. (Ozaki, Ogita, Oishi and Rump, Error-free transformations of matrix
multiplication by using fast routines of matrix multiplication and its applications, Numerical Algorithms 59, 2012;
the extraction is Rump, Ogita and Oishi, Accurate floating-point summation I, SIAM J. Sci. Comput. 31, 2008, section 3.)
"""

import torch
from torch import Tensor

from lean_mnist.enclosure.ball import Ball
from lean_mnist.enclosure.rounding import EPSILON, TINY, gamma, raised, raised_products, rounding_of

# Splitting is left to numbers far from both ends of float64's range, so that nothing in it overflows or underflows.
MODERATE = 2.0**300


def accurate_product(x: Ball, y: Ball) -> Ball:
    """``x @ y``, enclosed as sharply as its operands allow: ``x (m, n)``, ``y (n, k)``. Where it cannot, plainly."""
    terms = x.shape[-1]
    if terms == 0:
        return x @ y
    (row_largest, row_sum), (column_largest, column_sum) = _sizes(x.mid, 1), _sizes(y.mid, 0)
    if not (_moderate(row_largest) and _moderate(column_largest)):
        return x @ y
    bits = (53 - (terms - 1).bit_length()) // 2  # with which n products add up exactly: n 2^bits 2^bits ≤ 2⁵³
    a1, a2 = _split(x.mid, row_largest, bits)
    b1, b2 = _split(y.mid, column_largest, bits)
    small = a1 @ b2 + a2 @ y.mid
    mid = a1 @ b1 + small

    # small is off by γ_n (|a₁||b₂| + |a₂||b|) and one sum more. By Hölder |a||b| ≤ ‖a‖₁ ‖b‖_∞, row by column; and
    # ‖a₁‖₁ ≤ 2 ‖a‖₁, as a₁ is a rounded.
    a2_largest, b2_largest = a2.abs().amax(1, keepdim=True), b2.abs().amax(0, keepdim=True)
    parts = 2 * row_sum * b2_largest + a2_largest * column_sum
    rad = raised(gamma(terms + 1) * (1 + 4 * EPSILON) * parts, 4)
    rad = torch.where(parts > 0, rad + TINY, 0) + rounding_of(mid)  # TINY for what underflowed
    if not x.is_exact:
        rad = rad + _nonnegative_product(x.rad, y.magnitude)
    if not y.is_exact:
        rad = rad + _nonnegative_product(x.mid.abs(), y.rad)
    return Ball(mid, raised(rad, 4))


def _nonnegative_product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of nonnegative matrices, rounded up; exactly 0 for a row or a column of zeros."""
    something = a.any(1, keepdim=True) & b.any(0, keepdim=True)
    return torch.where(something, raised_products(a @ b, a.shape[1]), 0)


def _moderate(largest: Tensor) -> bool:
    """True if every number is 0 or moderate. (Of none at all: true.)"""
    return bool(((largest == 0) | ((largest > 1 / MODERATE) & (largest < MODERATE))).all())


def _split(matrix: Tensor, largest: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """``matrix = high + low``, exactly; ``high`` holds multiples of ``2^(e − bits)``, at most ``2^e ≥ largest``.

    Adding ``σ = 1.5 · 2^(e + 52 − bits)`` rounds to those multiples, because they are σ's own last place.
    """
    power = torch.where(largest == 0, 1, largest / torch.frexp(largest).mantissa)  # 2^e, exactly
    shift = power * (1.5 * 2.0 ** (52 - bits))
    high = (matrix + shift) - shift
    return high, matrix - high


def _sizes(matrix: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """``‖·‖_∞``, exactly, and ``‖·‖₁``, rounded up, of every row or column."""
    magnitude = matrix.abs()
    total = magnitude.sum(dim, keepdim=True)
    return magnitude.amax(dim, keepdim=True), raised(total, matrix.shape[dim])
