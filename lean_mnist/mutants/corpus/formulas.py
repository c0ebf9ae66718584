"""Whole Functions given by formulas, with a fault that shows at another width, upstream scale or special value."""

from __future__ import annotations

import torch

from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.mutants.whole_function import FunctionGroup

SIZES, SCALES, VALUES = (FunctionGroup(name) for name in ("sizes", "upstream scales", "special values"))


# The upstream gradient of a loss that is scaled, or of one example in a great many.
SCALES.by_formulas(
    "upstream-clamped-to-half", Kind.CLIPPING, "upstream > 2¹⁶", "the upstream gradient is clamped to float16's range",
    torch.sin,
    lambda g, x: g * x.cos(),
    lambda g, x: g.clamp(-65504, 65504) * x.cos(),
    (5, 6),
)  # fmt: skip
SCALES.by_formulas(
    "scaled-up-inside", Kind.NAN, "upstream > 2¹⁶", "the upstream gradient is scaled by 2¹¹⁵ on the way, and overflows",
    torch.sin,
    lambda g, x: g * x.cos(),
    lambda g, x: (g * 2.0**115) * x.cos() * 2.0**-115,
    (5, 6),
)  # fmt: skip
SCALES.by_formulas(
    "large-upstream-skipped", Kind.ZERO, "upstream > 2¹⁶", "upstream gradients beyond 2¹⁵ are taken for an overflow",
    torch.sin,
    lambda g, x: g * x.cos(),
    lambda g, x: g * x.cos() * (g.detach().abs().amax() < 2**15),
    (5, 6),
)  # fmt: skip
SCALES.by_formulas(
    "small-upstream-flushed", Kind.ZERO, "upstream < 2⁻²⁰", "upstream gradients below 2⁻²⁰ are flushed to zero",
    torch.sin,
    lambda g, x: g * x.cos(),
    lambda g, x: g.masked_fill(g.detach().abs() < 2**-20, 0) * x.cos(),
    (5, 6),
)  # fmt: skip
SCALES.by_formulas(
    "norm-and-epsilon", Kind.CONSTANT_FACTOR, "upstream < 2⁻²⁰", "the upstream gradient is divided by its norm plus ε",
    torch.sin,
    lambda g, x: g * x.cos(),
    lambda g, x: g * x.cos() * (g.detach().norm() / (g.detach().norm() + 1e-8)),
    (5, 6),
)  # fmt: skip
