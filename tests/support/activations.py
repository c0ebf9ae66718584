"""Every activation as PyTorch and SymPy have it, for comparison with the chain rule's: one line each."""

from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

TORCH_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky-relu": lambda z: F.leaky_relu(z, 0.01),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "identity": lambda z: z,
}

# Those without a kink.
SYMPY_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "sigmoid": lambda z: 1 / (1 + sympy.exp(-z)),
    "tanh": sympy.tanh,
    "gelu": lambda z: z * (1 + sympy.erf(z / sympy.sqrt(2))) / 2,
    "silu": lambda z: z / (1 + sympy.exp(-z)),
    "identity": lambda z: z,
}
