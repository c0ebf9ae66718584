"""Quantised networks: integer codes, one shift and scale per layer, and optional biases.

Shapes: ``D`` inputs and ``H`` units of a layer; ``B`` batch. A weight is ``shift + scale · value(code)``, where shift
and scale are float16 and the value of a code is

- ``integer``: the code itself, 0 … 2^b − 1 (MLCERT's quantised kernel);
- ``float16``: the IEEE 754 half-precision number whose bits the code is, b = 16 (MLCERT's 16-bit kernel, which has
  shift 0 and scale 1; here zero and subnormal numbers are read as IEEE 754 has them).

Biases are float16. Every number is thus an integer over a power of 2, and a network has one meaning: that of exact
arithmetic on integer pixels, ReLU between the layers, and the smallest index of a largest logit.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import ArgumentError
from lean_mnist.nn import grid

Codes = npt.NDArray[np.uint16]
Halves = npt.NDArray[np.float16]

ENCODINGS = ("integer", "float16")
FLOAT16_BITS = 16
#: Every finite float16 is an integer times 2^−24.
FLOAT16_EXPONENT = 24


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """One layer: ``codes`` uint16 (H, D), ``shift`` and ``scale`` float16, ``bias`` float16 (H,) or ``None``.

    Raises ``ArgumentError`` for codes that do not fit into ``bits`` (1 … 16), numbers that are not finite, an unknown
    encoding or shapes that do not fit.
    """

    codes: Codes
    bits: int
    shift: np.float16
    scale: np.float16
    bias: Halves | None = None
    encoding: str = "integer"

    def __post_init__(self) -> None:
        check_bits(self.bits, self.encoding)
        if self.codes.dtype != np.uint16 or self.codes.ndim != 2 or 0 in self.codes.shape:
            found = f"{self.codes.dtype} of shape {self.codes.shape}"
            raise ArgumentError(f"codes: {found}, expected uint16 of shape (H, D)")
        if (largest := int(self.codes.max())) >> self.bits:
            raise ArgumentError(f"codes: {largest}, expected at most {2**self.bits - 1} for {self.bits} bits")
        for name, value in (("shift", self.shift), ("scale", self.scale)):
            if not isinstance(value, np.float16) or not np.isfinite(value):
                raise ArgumentError(f"{name}: {value!r}, expected a finite float16")
        if self.bias is not None:
            if self.bias.dtype != np.float16 or self.bias.shape != self.codes.shape[:1]:
                found = f"{self.bias.dtype} of shape {self.bias.shape}"
                raise ArgumentError(f"bias: {found}, expected float16 of shape ({self.codes.shape[0]},)")
            if not np.isfinite(self.bias).all():
                raise ArgumentError("bias: holds infinities or NaN, expected finite numbers")
        if self.encoding == "float16" and not np.isfinite(self.codes.view(np.float16)).all():
            raise ArgumentError("codes: hold infinities or NaN, expected finite float16 numbers")

    def integers(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, int]:
        """Integers (H, D), integers (H,) or ``None``, and an exponent e: weight and bias are these times 2^−e, exactly.

        Weights are int64 where that holds them all, else Python integers, as biases are; e is the smallest that serves.
        """
        shift, scale = (int(number) for number in _over_2_24(np.array([self.shift, self.scale])))
        exponent, largest = FLOAT16_EXPONENT, 1 << self.bits
        values: npt.NDArray[Any] = self.codes
        if self.encoding == "float16":
            spare = min(FLOAT16_EXPONENT, _trailing_zeros(shift << FLOAT16_EXPONENT | scale))
            shift, scale, exponent = shift << FLOAT16_EXPONENT >> spare, scale >> spare, 2 * FLOAT16_EXPONENT - spare
            values, largest = _over_2_24(self.codes.view(np.float16)), 1 << 40
        weight = values.astype(np.int64 if abs(shift) + abs(scale) * largest < 1 << 62 else object)
        weight *= scale
        weight += shift
        bias = None
        if self.bias is not None:
            bias = _over_2_24(self.bias).astype(object) << (exponent - FLOAT16_EXPONENT)
        every = int(np.bitwise_or.reduce(weight, axis=None)) | (0 if bias is None else np.bitwise_or.reduce(bias))
        spare = min(exponent, _trailing_zeros(every))
        weight >>= spare
        return weight, None if bias is None else bias >> spare, exponent - spare


@dataclass(frozen=True)
class NetworkSpace:
    """The set of all networks of one form: its size in bits is what a union bound pays.

    ``sizes``: input features, hidden widths, classes. ``bits``: of a weight, 1 … 16. ``denominator``: what pixels are
    divided by, a constant of the space. ``biases`` says whether the layers have them. Raises ``ArgumentError``.
    """

    sizes: tuple[int, ...]
    bits: int
    biases: bool = False
    encoding: str = "integer"
    denominator: int = 255

    def __post_init__(self) -> None:
        check_bits(self.bits, self.encoding)
        if len(self.sizes) < 2 or any(size < 1 for size in self.sizes):
            raise ArgumentError(f"sizes: {self.sizes}, expected two or more numbers of at least 1")
        if self.denominator < 1:
            raise ArgumentError(f"denominator: {self.denominator}, expected at least 1")

    @property
    def layer_shapes(self) -> list[tuple[int, int]]:
        """``(H, D)`` of each layer, first layer first."""
        return [(units, inputs) for inputs, units in itertools.pairwise(self.sizes)]

    @property
    def size_in_bits(self) -> int:
        """``Σ_layers 2·16 + H·D·b + (16·H with biases)``: the space has at most 2 to that power members."""
        biases = sum(units for units, _ in self.layer_shapes) if self.biases else 0
        weights = sum(units * inputs for units, inputs in self.layer_shapes)
        return 2 * FLOAT16_BITS * len(self.layer_shapes) + weights * self.bits + FLOAT16_BITS * biases

    def to_dict(self) -> dict[str, Any]:
        """Plain values, from which ``NetworkSpace(**values)`` makes an equal space."""
        return {**vars(self), "sizes": list(self.sizes)}


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """A member of a :class:`NetworkSpace`. Raises ``ArgumentError`` unless its layers fit one another and the space."""

    layers: tuple[QuantizedLayer, ...]
    denominator: int = 255

    def __post_init__(self) -> None:
        if not self.layers:
            raise ArgumentError("layers: none, expected at least one")
        first = self.layers[0]
        for index, (before, layer) in enumerate(itertools.pairwise(self.layers), 1):
            if layer.codes.shape[1] != len(before.codes):
                raise ArgumentError(f"layers[{index}]: {layer.codes.shape[1]} inputs, expected {len(before.codes)}")
            for name in ("bits", "encoding"):
                if getattr(layer, name) != getattr(first, name):
                    raise ArgumentError(f"layers[{index}].{name}: {getattr(layer, name)}, expected that of layers[0]")
            if (layer.bias is None) != (first.bias is None):
                raise ArgumentError(f"layers[{index}].bias: expected biases in every layer or in none")
        self.space  # noqa: B018  # checks the denominator

    @property
    def space(self) -> NetworkSpace:
        """The smallest space of this form."""
        first = self.layers[0]
        sizes = (first.codes.shape[1], *(layer.codes.shape[0] for layer in self.layers))
        return NetworkSpace(sizes, first.bits, first.bias is not None, first.encoding, self.denominator)


def check_bits(bits: int, encoding: str) -> None:
    """Raise ``ArgumentError`` unless ``encoding`` is known and can have ``bits`` bits."""
    if encoding not in ENCODINGS:
        raise ArgumentError(f"encoding: {encoding!r}, expected one of {', '.join(ENCODINGS)}")
    grid.check_bits(bits)
    if encoding == "float16" and bits != FLOAT16_BITS:
        raise ArgumentError(f"bits: {bits}, expected {FLOAT16_BITS} for the encoding float16")


def _over_2_24(halves: npt.NDArray[np.float16]) -> npt.NDArray[np.int64]:
    """The integers k, below 2^40, such that each float16 is ``k · 2^−24``; float64 holds every one of them."""
    return np.ldexp(halves.astype(np.float64), FLOAT16_EXPONENT).astype(np.int64)


def _trailing_zeros(number: int) -> int:
    return (number & -number).bit_length() - 1 if number else FLOAT16_EXPONENT * 2
