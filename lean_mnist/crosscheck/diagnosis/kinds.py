"""The classes of faults that a diagnosis tells apart, and its result."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from torch import Tensor


class Kind(str, Enum):
    """The likely class of a fault. Members are the strings that reports and files hold."""

    NAN = "NaN"
    ZERO = "zero"
    SIGN = "sign"
    CONSTANT_FACTOR = "constant factor"
    CLIPPING = "clipping"
    TRANSPOSE = "transpose"
    PERMUTATION = "row or column swap"
    SWAPPED_TENSORS = "swapped tensors"  # the gradient of something else of this shape
    MASK = "mask"
    DERIVATIVE = "derivative"  # a step of the chain rule has another function than its derivative
    MISSING_TERM = "missing term"  # or one too many
    STALE_VALUE = "stale value"
    UPSTREAM_IGNORED = "upstream ignored"
    NONDETERMINISM = "nondeterminism"
    RANDOM_NUMBERS = "random numbers"  # the backward draws others than the forward drew
    UNINITIALISED = "uninitialised memory"  # never written, so that it holds whatever was there before
    PRECISION = "precision"
    LAYOUT = "layout"
    MUTATION = "mutation"  # something was changed in place that must not be
    WRONG_VALUES = "wrong values"  # none of the above fits

    def __str__(self) -> str:
        return str(self.value)


class Basis(Enum):
    """The evidence for a diagnosis."""

    IDENTIFIED = "ours equals a value that is known to have another origin"
    FITTED = "a simple relation to the reference fits"
    VAGUE = "no simple relation fits"


class Candidate(NamedTuple):
    """A fault of class ``kind``, in ``words``, and the values that the tensor would have then (if not known to fit)."""

    kind: Kind
    words: str
    model: Tensor | None = None


@dataclass(frozen=True)
class Diagnosis:
    """The likely class in words; where; and both values at the place that is farthest off."""

    kind: Kind
    text: str
    where: str
    index: tuple[int, ...]
    ours: float
    reference: float
    basis: Basis = Basis.FITTED

    def __str__(self) -> str:
        place = f"at [{', '.join(map(str, self.index))}] " if self.index else ""
        values = f"{place}{self.ours:.9g} instead of {self.reference:.9g}"
        return f"likely {self.kind}: {self.text} ({self.where}; {values})"
