"""Comparisons of what tensors give: with SymPy numbers of many digits, and by ``gradcheck``."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy
import torch
from torch.autograd.gradcheck import GradcheckError, gradcheck

from lean_mnist.verification.model import Refuted

DIGITS = 60
# Tighter than its defaults, with which a gradient that is 0.1 % too large passes.
GRADCHECK_OPTIONS: dict[str, Any] = {"eps": 1e-6, "atol": 1e-7, "rtol": 1e-6}


# The same numbers, exactly, as SymPy numbers of many digits, on which the chain rule's formulas can run.
_precise = np.frompyfunc(lambda value: sympy.Float(float(value), DIGITS), 1, 1)


def worst_ulps(
    what: str,
    function: Callable[[Any], Any],
    values: Sequence[Any],
    scale: Callable[[Any, float], float],
    allowed: float,
    dtype: torch.dtype = torch.float64,
) -> float:
    """Largest error of ``function`` in ``dtype``, in units of rounding of numbers of size ``scale(value, exact)``.

    ``function`` runs on the tensor of ``values``, and on the same numbers with many digits; a row gives a row. Raises
    ``Refuted``, with the place, if the error is more than ``allowed``.
    """
    largest, limits = 0.0, torch.finfo(dtype)
    given = torch.tensor(values, dtype=dtype)
    found, values = function(given).tolist(), given.tolist()  # what is compared is at the numbers as they were rounded
    with np.errstate(all="ignore"):  # NumPy looks at flags that mpmath's own arithmetic may leave set
        exact = function(_precise(values))
    for value, one_row, exact_row in zip(values, found, exact, strict=True):
        for one, other in zip(np.atleast_1d(one_row), np.atleast_1d(exact_row), strict=True):
            # The unit in the last place of a number of that size.
            unit = 2.0 ** math.floor(math.log2(max(scale(value, float(other)), limits.tiny))) * limits.eps
            error = float(abs(_precise(one) - sympy.N(other, DIGITS)) / unit)
            if not error <= allowed:
                place = f"{float(one)!r} instead of {float(other)!r} at {value!r} in {dtype}, {error:.1f} units"
                raise Refuted(f"{what} is off", place)
            largest = max(largest, error)
    return largest


def passes_gradcheck(name: str, function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
    """Raise ``Refuted`` unless ``gradcheck`` passes ``function`` at ``inputs``."""
    try:
        gradcheck(function, inputs, **GRADCHECK_OPTIONS)
    except GradcheckError as error:
        raise Refuted("gradcheck failed", f"{name}: {' '.join(str(error).split())}") from None


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Random numbers in float64."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
