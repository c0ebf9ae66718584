"""Rounding, outward: what float64 arithmetic may have lost, and what is assumed of the machine.

Nothing about rounding is assumed anywhere else in this package. ``u = 2⁻⁵³`` is the unit roundoff, ``η = 2⁻¹⁰⁷⁴`` the
smallest positive number. **Assumed**, of PyTorch and the machine under it:

1. Float64 ``+ − × ÷`` round to nearest (IEEE 754), each on its own (PyTorch's eager mode), with gradual underflow,
   which :func:`check_gradual_underflow` looks at.
2. A float64 sum or matrix product adds its terms in some order, by ``+``, ``×`` and fused multiply–add. The order is
   not assumed: ``γ_n = n u / (1 − n u)`` bounds them all (Higham, Accuracy and Stability of Numerical Algorithms,
   2nd ed., section 3.1, eq. 3.5). Fast multiplication (Strassen) and emulated float64 are excluded.
3. Float64 ``sqrt``, ``exp``, ``expm1``, ``log``, ``tanh``, ``sigmoid`` and ``erf`` are off by at most
   ``ELEMENTARY_ULPS · 2⁻⁵²`` times the true value, plus ``TINY``. The tests measure it against Arb, and find less than
   half of that. (``sqrt`` is among them because PyTorch's, where it is vectorised, is not always the nearest number.)

From these, the radii follow by proof (for the most part in Coq: ``proofs/README.md`` says which). A radius is itself
computed in float64, from nonnegative numbers only, so it is at most a factor ``(1 − u)^−k`` too small after ``k``
roundings, and :func:`raised` makes up for that (Rump, Verification methods, Acta Numerica 19, 2010).
"""

import torch
from torch import Tensor

from lean_mnist.errors import ArgumentError

UNIT = 2.0**-53
EPSILON = 2.0**-52
TINY = 2.0**-1022  # the smallest normal number
ELEMENTARY_ULPS = 4.0


def gamma(terms: int) -> float:
    """``γ_n = n u / (1 − n u)``, rounded up: the relative error of ``n`` roundings, however they combine."""
    assert 0 <= terms < 2**40
    product = terms * UNIT  # exact
    return product / (1 - product) * (1 + 4 * EPSILON)


def raised(radius: Tensor, roundings: int) -> Tensor:
    """An upper bound of the real value that ``radius`` stands for, computed by at most ``roundings`` additions.

    Of nonnegative numbers; multiplications count too where they cannot underflow. Zero stays zero: a sum is exact where
    it is subnormal.
    """
    return radius * (1 + 2 * gamma(roundings + 2))


def raised_products(radius: Tensor, roundings: int) -> Tensor:
    """:func:`raised`, where some of the operations were products that may have underflowed, with only sums after.

    Each lost at most η. ``TINY`` is far more than all of them, and adding it is fast, unlike adding subnormal numbers.
    """
    return raised(radius, roundings) + TINY


def rounding_of(result: Tensor) -> Tensor:
    """Error bound of a rounded sum: ``u |result|``. (A subnormal sum is exact.)"""
    return UNIT * result.abs()


def least_nonzero(*tensors: Tensor) -> float:
    """The smallest magnitude among all numbers that are not zero; infinity if there are none."""
    found = torch.inf
    for tensor in tensors:
        if tensor.numel():
            magnitude = tensor.abs()
            found = min(found, float(torch.where(magnitude == 0, torch.inf, magnitude).amin()))
    return found


def check_gradual_underflow(device: torch.device) -> None:
    """Raise ``ArgumentError`` if subnormal numbers are flushed to zero, as ``torch.set_flush_denormal`` asks for."""
    smallest = torch.full((1,), 2.0**-149, dtype=torch.float32, device=device)
    # η, by its bits: where numbers are flushed, η equals 0.
    if int((smallest.to(torch.float64) * 2.0**-925).view(torch.int64)) != 1:
        raise ArgumentError("enclosure: expected gradual underflow, found subnormal numbers flushed to zero")
