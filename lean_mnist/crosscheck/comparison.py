"""The divergence of a tensor from its reference, and how much of it rounding explains.

Late in training ``p − onehot(y)`` cancels, and a tolerance relative to the gradient would raise false alarms. So it is
measured: plain PyTorch computes the same in the precision under test (the *baseline*), and the error of ours against
the float64 reference may be ``BASELINE_FACTOR`` times the baseline's (flash-attention's idea), plus ``FLOOR_ULPS``
units of rounding, if that is exact by chance, and ``MAGNITUDE_ULPS`` of the size of larger terms that cancel, if known.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BASELINE_FACTOR = 10.0
FLOOR_ULPS = 32.0
MAGNITUDE_ULPS = 8.0


@dataclass(frozen=True)
class Divergence:
    """The distance of a tensor from its reference, ``‖ours − reference‖₂ / ‖reference‖₂``, and its place.

    Where the reference is 0 everywhere, relative to the terms that it is a sum of, or absolute if there are none.
    """

    name: str
    value: float
    allowed: float  # the largest that rounding explains
    index: tuple[int, ...]  # of the largest difference
    ours: float  # there
    reference: float

    @property
    def passed(self) -> bool:
        """True if rounding explains it."""
        return self.value <= self.allowed  # False for NaN

    @property
    def share(self) -> float:
        """The part of ``allowed`` that was used."""
        if self.value == 0:
            return 0.0
        return self.value / self.allowed if self.allowed > 0 else math.inf

    def __str__(self) -> str:
        return self.said("hand-written", "reference")

    def said(self, ours: str, reference: str) -> str:
        """In a line, with words for the two."""
        place = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        return (
            f"{self.name}{place}: {ours} {self.ours:.9g}, {reference} {self.reference:.9g} "
            f"(divergence {self.value:.2e}, rounding explains {self.allowed:.2e})"
        )


def or_infinity(value: float) -> float:
    """``value``, or infinity for NaN: the key of a largest that NaN is."""
    return math.inf if math.isnan(value) else value


def place_of_largest(x: Tensor) -> tuple[int, ...]:
    """The index of the largest number in ``x``; NaN counts as infinite."""
    place = int(x.nan_to_num(nan=math.inf).argmax())
    return tuple(int(i) for i in np.unravel_index(place, x.shape))  # torch.unravel_index imports SymPy, for 0.7 s


@torch.no_grad()
def compare(name: str, ours: Tensor, reference: Tensor, baseline: Tensor, magnitude: float = 0.0) -> Divergence:
    """The divergence of ``ours`` from the float64 ``reference``, with what ``baseline``'s own error allows.

    All three have one shape (any, also empty); ``ours`` and ``baseline`` have the precision under test. Where the
    result is a sum of larger terms that cancel, ``magnitude`` is their 2-norm: rounding is relative to it.
    """
    assert ours.shape == reference.shape == baseline.shape
    unit = torch.finfo(ours.dtype).eps / 2
    exact = reference.to(torch.float64)
    difference = (ours.to(torch.float64) - exact).abs()
    if difference.numel() == 0:
        return Divergence(name, 0.0, 0.0, (), 0.0, 0.0)
    scale, error = float(exact.norm()), float(difference.norm())
    baseline_error = float((baseline.to(torch.float64) - exact).norm())
    # Below this a result may be flushed or lose digits to gradual underflow, in ours and in the baseline alike.
    underflow = torch.finfo(ours.dtype).tiny * math.sqrt(difference.numel())
    if not math.isfinite(baseline_error):  # it overflowed; that excuses nothing
        baseline_error = 0.0
    allowed = BASELINE_FACTOR * baseline_error + unit * (FLOOR_ULPS * scale + MAGNITUDE_ULPS * magnitude) + underflow
    index = place_of_largest(difference)
    # Relative to a reference that is 0 everywhere, any error would be infinite.
    divide = scale or magnitude or 1.0
    return Divergence(
        name=name,
        value=error / divide if error else 0.0,
        allowed=allowed / divide,
        index=index,
        ours=float(ours[index]),
        reference=float(exact[index]),
    )
