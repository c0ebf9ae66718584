"""Float32 sums and kernels that add one term after another, first term first.

``np.sum`` and ``@`` add in an order of their own choosing, which differs between machines. Here each product and each
sum is rounded to float32 once, in the order of the formula; what is vectorised is only what does not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Kernel = Callable[[Floats, Floats], Floats]


def ordered_sum(terms_SB: Floats) -> Floats:
    """``((0 + t_1) + t_2) + …`` down each column of float32 ``(S, B)``: ``(B,)``, zeros if there is no term."""
    if len(terms_SB) == 0:
        return np.zeros(terms_SB.shape[1], np.float32)
    # accumulate is defined by r[i] = r[i − 1] + t[i]; reduce may add in pairs
    total_B: Floats = np.add.accumulate(terms_SB, axis=0)[-1]
    return total_B


def linear_kernel(x_Sn: Floats, z_Bn: Floats) -> Floats:
    """``K(x, z) = x·z`` of every pair of rows, features added in order: float32 ``(S, B)``."""
    total_SB = np.zeros((len(x_Sn), len(z_Bn)), np.float32)
    for x_S, z_B in zip(x_Sn.T, z_Bn.T, strict=True):
        total_SB += x_S[:, None] * z_B[None, :]
    return total_SB


def quadratic_kernel(x_Sn: Floats, z_Bn: Floats) -> Floats:
    """``K(x, z) = (x·z)²`` of every pair of rows: float32 ``(S, B)``."""
    return np.square(linear_kernel(x_Sn, z_Bn))


KERNELS: dict[str, Kernel] = {"linear": linear_kernel, "quadratic": quadratic_kernel}
