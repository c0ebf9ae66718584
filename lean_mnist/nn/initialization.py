"""Initial weights. Biases start at zero. Every random draw comes from a generator the caller seeds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lean_mnist.errors import check_choice

INITIALIZATIONS = ("he-normal", "xavier-uniform", "scale")


@torch.no_grad()
def initialize_weight_(
    weight_HD: Tensor, initialization: str, generator: torch.Generator, scale: float = 0.01
) -> Tensor:
    """Fill ``weight (H, D)`` in place, and return it.

    - ``he-normal``: N(0, 2/D) (He et al., 2015, eq. 10)
    - ``xavier-uniform``: U(−a, a), a = √(6 / (D + H)) (Glorot and Bengio, 2010, eq. 16)
    - ``scale``: N(0, scale²)
    """
    check_choice("initialization", initialization, INITIALIZATIONS)
    units, features = weight_HD.shape
    if initialization == "he-normal":
        return weight_HD.normal_(0, math.sqrt(2 / features), generator=generator)
    if initialization == "xavier-uniform":
        bound = math.sqrt(6 / (features + units))
        return weight_HD.uniform_(-bound, bound, generator=generator)
    return weight_HD.normal_(0, scale, generator=generator)
