"""Whole Functions given by formulas, with a fault that shows at another width, upstream scale or special value."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.mutants.mutant import with_entry
from lean_mnist.mutants.whole_function import FunctionGroup

# fmt: off

SIZES = FunctionGroup("sizes", (5, 6), vary_sizes={0: [1]})
SCALES, VALUES = (FunctionGroup(name, (5, 6)) for name in ("upstream scales", "special values"))


def _sine_gradient(g: Tensor, x: Tensor) -> Tensor:
    return g * x.cos()


def _softmax_gradient(g: Tensor, s: Tensor) -> Tensor:
    p = s.softmax(-1)
    return p * (g - (g * p).sum(-1, keepdim=True))


def _silu_gradient(g: Tensor, x: Tensor) -> Tensor:
    return g * x.sigmoid() * (1 + x * (1 - x.sigmoid()))


def _largest(x: Tensor) -> Tensor:
    return (x == x.amax(-1, keepdim=True)).to(x.dtype)


# Of a centred, a normalised, an averaged, a reduced row. The widths given show none of these.
SIZES.by_formulas(
    "mean-of-the-others", Kind.NAN, "width 1", "a mean over the other columns is formed, of which width 1 has none",
    lambda x: x - x.mean(-1, keepdim=True),
    lambda g, x: g - g.mean(-1, keepdim=True),
    lambda g, x: (1 - 1 / g.shape[-1]) * (g - (g.sum(-1, keepdim=True) - g) / torch.tensor(g.shape[-1] - 1.0)))
SIZES.by_formulas(
    "softmax-of-two-as-sigmoid", Kind.MISSING_TERM, "width 2", "of two columns only the first upstream gradient counts",
    lambda s: torch.softmax(s, -1),
    _softmax_gradient,
    lambda g, s: _softmax_gradient(g if g.shape[-1] != 2 else with_entry(g, (..., 1), 0), s))
SIZES.by_formulas(
    "odd-column-lost", Kind.ZERO, "odd width", "columns are read in pairs, and the last of an odd number is lost",
    lambda x: x.square().sum(-1),
    lambda g, x: 2 * g[..., None] * x,
    lambda g, x: with_entry(2 * g[..., None] * x, (..., slice(x.shape[-1] // 2 * 2, None)), 0))
SIZES.by_formulas(
    "power-of-two-below", Kind.ZERO, "width no power of two", "columns beyond the largest power of two are not written",
    F.silu, _silu_gradient,
    lambda g, x: with_entry(_silu_gradient(g, x), (..., slice(1 << (x.shape[-1].bit_length() - 1), None)), 0),
    (5, 8))
SIZES.by_formulas(
    "columns-beyond-16", Kind.ZERO, "width > 16", "a block has 16 columns, and those beyond are not written",
    torch.sin, _sine_gradient,
    lambda g, x: with_entry(g * x.cos(), (..., slice(16, None)), 0),
    (3, 16))
SIZES.by_formulas(
    "nominal-width", Kind.CONSTANT_FACTOR, "another width", "a mean over 8 columns, however many there are",
    lambda x: x.mean(-1),
    lambda g, x: (g[..., None] / x.shape[-1]).expand(x.shape),
    lambda g, x: (g[..., None] / 8).expand(x.shape),
    (5, 8))
SIZES.by_formulas(
    "inner-tail-of-4", Kind.ZERO, "inner size not divisible by 4", "rows of dW beyond the last block of 4 are lost",
    torch.matmul,
    lambda g, x, w: (g @ w.T, x.T @ g),
    lambda g, x, w: (g @ w.T, with_entry(x.T @ g, slice(len(w) // 4 * 4, None), 0)),
    (5, 8), (8, 3), vary_sizes={0: [1], 1: [0]})

# The upstream gradient of a loss that is scaled, or of one example in a great many.
SCALES.by_formulas(
    "upstream-clamped-to-half", Kind.CLIPPING, "upstream > 2¹⁶", "the upstream gradient is clamped to float16's range",
    lambda x: 2 * x,
    lambda g, x: 2 * g,
    lambda g, x: 2 * g.clamp(-65504, 65504))
SCALES.by_formulas(
    "scaled-up-inside", Kind.NAN, "upstream > 2¹⁶", "the upstream gradient is scaled by 2¹¹⁵ on the way, and overflows",
    torch.sin, _sine_gradient,
    lambda g, x: (g * 2.0**115) * x.cos() * 2.0**-115)
SCALES.by_formulas(
    "large-upstream-skipped", Kind.ZERO, "upstream > 2¹⁶", "upstream gradients beyond 2¹⁵ are taken for an overflow",
    torch.sin, _sine_gradient,
    lambda g, x: g * x.cos() * (g.detach().abs().amax() < 2**15))
SCALES.by_formulas(
    "small-upstream-flushed", Kind.ZERO, "upstream < 2⁻²⁰", "upstream gradients below 2⁻²⁰ are flushed to zero",
    torch.sin, _sine_gradient,
    lambda g, x: g.masked_fill(g.detach().abs() < 2**-20, 0) * x.cos())
SCALES.by_formulas(
    "norm-and-epsilon", Kind.CONSTANT_FACTOR, "upstream < 2⁻²⁰", "the upstream gradient is divided by its norm plus ε",
    torch.sin, _sine_gradient,
    lambda g, x: g * x.cos() * (g.detach().norm() / (g.detach().norm() + 1e-8)))

# All but the ties are smooth there.
VALUES.by_formulas(
    "product-divided", Kind.NAN, "exact 0", "the product is divided by the factor, which may be 0",
    torch.mul,
    lambda g, a, b: (g * b, g * a),
    lambda g, a, b: (g * (a * b / a), g * a),
    (5, 6), (5, 6))
VALUES.by_formulas(
    "no-branch-at-zero", (Kind.MASK, Kind.ZERO), "exact 0", "x > 0 and x < 0 have a branch each, and 0 has none",
    F.elu,
    lambda g, x: g * torch.where(x > 0, 1, x.clamp(max=0).exp()),
    lambda g, x: g * ((x > 0) + (x < 0) * x.clamp(max=0).exp()))
VALUES.by_formulas(
    "exponential-overflows", Kind.NAN, "large values", "the slope is exp(x) / (1 + exp(x))",
    F.softplus,
    lambda g, x: g * x.sigmoid(),
    lambda g, x: g * x.exp() / (1 + x.exp()),
    (8, 16))
VALUES.by_formulas(
    "normalizer-not-shifted", Kind.NAN, "large values", "exp(x) / Σ exp(x), the largest x not subtracted",
    lambda x: x.logsumexp(-1),
    lambda g, x: g[..., None] * x.softmax(-1),
    lambda g, x: g[..., None] * x.exp() / x.exp().sum(-1, keepdim=True),
    (8, 16))
VALUES.by_formulas(
    "ties-each-get-all", (Kind.CONSTANT_FACTOR, Kind.MASK), "ties", "each of several largest gets the whole gradient",
    lambda x: x.amax(-1),
    lambda g, x: g[..., None] * _largest(x) / _largest(x).sum(-1, keepdim=True),
    lambda g, x: g[..., None] * _largest(x))
VALUES.by_formulas(
    "ties-have-one-rank", (Kind.PERMUTATION, Kind.MISSING_TERM), "ties", "equal values get the gradient of one rank",
    lambda x: x.sort(dim=-1, stable=True).values,
    lambda g, x: g.gather(-1, x.argsort(dim=-1, stable=True).argsort(-1)),
    lambda g, x: g.gather(-1, (x[..., None] > x[..., None, :]).sum(-1)))
