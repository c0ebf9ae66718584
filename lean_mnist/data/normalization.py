"""From uint8 pixels to floating-point features: ``x = (pixel - mean) / scale``, clipped where that is asked for.

Shapes: ``B`` batch, ``D = rows * columns`` input features, ``m`` examples.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lean_mnist.data.names import NORMALIZATIONS
from lean_mnist.errors import ArgumentError, CheckpointError, ConfigError, check_choice
from lean_mnist.reading.text import printable

_LARGEST = torch.finfo(torch.float32).max  # in which features are computed


@dataclass(frozen=True)
class Normalization:
    """Map from pixels to features; plain numbers, so that it travels inside a checkpoint.

    ``standard``: mean and population standard deviation of all pixels of the training part. ``centered``: that mean,
    and the largest possible pixel value as scale. ``unit``: mean 0 and that scale. ``per-image``: each image's own
    mean and population standard deviation; an image of one colour becomes zeros.
    """

    kind: str
    mean: float
    scale: float
    clip: float | None = None  # features are clipped to ±this

    @classmethod
    def fit(cls, kind: str, train_images: torch.Tensor, maximum: int, clip: float | None = None) -> "Normalization":
        """The normalisation of ``kind`` for ``train_images``, uint8 (m, rows, columns), m >= 1.

        ``maximum`` is the largest possible pixel value; features are clipped to ±``clip``, if that is given.
        Mean and variance are exact up to the final rounding to float64; equal pixels give scale 1. Raises
        :class:`ConfigError` for an unknown ``kind``.
        """
        check_choice("normalization", kind, NORMALIZATIONS, ConfigError)
        if kind == "unit":
            return cls(kind, 0.0, float(maximum), clip)
        if kind == "per-image":
            return cls(kind, 0.0, 1.0, clip)
        check_pixels("train_images", train_images)
        counts = torch.bincount(train_images.flatten(), minlength=256).tolist()
        pixels, total, squares = (sum(value**power * n for value, n in enumerate(counts)) for power in (0, 1, 2))
        if kind == "centered":
            return cls(kind, total / pixels, float(maximum), clip)
        # variance = squares/pixels - (total/pixels)**2, over a common denominator and in integers: nothing cancels
        deviation = math.sqrt(pixels * squares - total * total) / pixels
        return cls(kind, total / pixels, deviation or 1.0, clip)

    def apply(
        self, images: torch.Tensor, dtype: torch.dtype = torch.float32, into: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Features (B, D), contiguous, of ``dtype``, for ``images`` uint8 (B, rows, columns) on any device.

        Computed in float32 (float64 where that is asked for); a narrower ``dtype`` is rounded to once, at the end.
        ``into`` is a tensor (B, D) of ``dtype`` to be written over and returned. Raises :class:`ArgumentError`.
        """
        check_pixels("images", images)
        computed_in = torch.float64 if dtype == torch.float64 else torch.float32
        flat_BD = images.flatten(1)
        x_BD = flat_BD.to(computed_in) if into is None or dtype != computed_in else into.copy_(flat_BD)
        if self.kind == "per-image":
            features = torch.full((), x_BD.shape[1], dtype=x_BD.dtype, device=x_BD.device)
            # Of integers, so that a constant image is centred to exactly 0; rounded once, as float32 divides them.
            mean_B1 = flat_BD.sum(1, keepdim=True, dtype=torch.int64).double().div_(features)
            x_BD.sub_(mean_B1.to(computed_in))
            deviation_B1 = x_BD.square().sum(1, keepdim=True).div_(features).sqrt_()
            x_BD.div_(deviation_B1.masked_fill_(deviation_B1 == 0, 1))
        else:
            if self.mean != 0:
                x_BD.sub_(self.mean)
            # A tensor, because CUDA divides by a Python number by multiplying with its rounded reciprocal.
            x_BD.div_(torch.full((), self.scale, dtype=x_BD.dtype, device=x_BD.device))
        if self.clip is not None:
            x_BD.clamp_(-self.clip, self.clip)
        return x_BD.to(dtype) if into is None or into is x_BD else into.copy_(x_BD)

    @property
    def background(self) -> float:
        """The feature of a pixel of 0, by :meth:`apply`; 0 where it is different in every image."""
        return 0.0 if self.kind == "per-image" else float(self.apply(torch.zeros(1, 1, 1, dtype=torch.uint8)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint: ``kind``, ``mean``, ``scale``, and ``clip`` where there is one."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Normalization":
        """The inverse of :meth:`to_dict`. Raises :class:`CheckpointError` for anything that it cannot have written."""
        if not isinstance(values, Mapping) or set(values) - {"clip"} != {"kind", "mean", "scale"}:
            found = repr(sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__)
            raise CheckpointError(f"normalization: {printable(found, 60)}, expected the fields kind, mean, scale")
        kind, mean, scale, clip = values["kind"], values["mean"], values["scale"], values.get("clip", 1.0)
        for name, good, expected in (
            ("kind", isinstance(kind, str) and kind in NORMALIZATIONS, f"one of {', '.join(NORMALIZATIONS)}"),
            ("mean", _is_finite_number(mean), "a finite number in float32"),
            ("scale", _is_finite_number(scale) and scale > 0, "a finite number above 0 in float32"),
            ("clip", _is_finite_number(clip) and clip > 0, "a finite number above 0 in float32"),
        ):
            if not good:
                found = printable(repr(values[name]), 60)
                raise CheckpointError(f"normalization.{name}: {found}, expected {expected}")
        return cls(kind, float(mean), float(scale), float(clip) if "clip" in values else None)


def _is_finite_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST


def check_pixels(argument: str, images: torch.Tensor) -> None:
    """Raise :class:`ArgumentError` unless ``images`` are uint8 (examples, rows, columns)."""
    if images.dtype != torch.uint8 or images.ndim != 3:
        found = f"{str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}"
        raise ArgumentError(f"{argument}: {found}, expected uint8 of shape (examples, rows, columns)")
