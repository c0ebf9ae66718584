"""A network from elsewhere: its layers, and what is and is not known of how it was stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lean_mnist.errors import ArgumentError, DataError
from lean_mnist.nn import MLP

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scaling:
    """Features are ``(pixel − mean) / scale``."""

    mean: float
    scale: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mean) and np.isfinite(self.scale) and self.scale > 0):
            raise ArgumentError(f"scaling: ({self.mean}, {self.scale}), expected a finite mean and a scale above 0")


@dataclass(frozen=True, eq=False)
class ImportedNetwork:
    """Dense layers with ReLU between them. ``layers`` are pairs of weight float64 (H, D) and bias (H,) or ``None``.

    ``transposed[l]``: whether the file has layer l as (D, H). ``known[l]``: whether the shapes decide that; where a
    matrix is square only the format's convention speaks for it, until :func:`verify_on_data` was asked. ``scaling``:
    how pixels become features, if the file says so.
    """

    layers: tuple[tuple[Doubles, Doubles | None], ...]
    transposed: tuple[bool, ...]
    known: tuple[bool, ...]
    source: str
    scaling: Scaling | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Features, hidden widths, classes."""
        return (self.layers[0][0].shape[1], *(weight.shape[0] for weight, _ in self.layers))

    def logits(self, images: npt.NDArray[np.uint8], scaling: Scaling) -> Doubles:
        """Float64 (B, C), for looking at: certificates use the integers of ``spaces``."""
        h = (images.reshape(len(images), -1).astype(np.float64) - scaling.mean) / scaling.scale
        if h.shape[1] != self.sizes[0]:
            raise ArgumentError(f"images: {h.shape[1]} pixels each, expected {self.sizes[0]}")
        for index, (weight, bias) in enumerate(self.layers):
            h = (np.maximum(h, 0) if index else h) @ weight.T
            h = h if bias is None else h + bias
        return h

    def turned(self, flips: Sequence[bool]) -> ImportedNetwork:
        """The same with the square layers for which ``flips`` is true transposed."""
        layers = tuple(
            (weight.T if flip else weight, bias) for flip, (weight, bias) in zip(flips, self.layers, strict=True)
        )
        turned = tuple(before != flip for before, flip in zip(self.transposed, flips, strict=True))
        return replace(self, layers=layers, transposed=turned)

    def model(self) -> MLP:
        """As an ``MLP`` in float64; ``ArgumentError`` where some layers have biases and others not."""
        biased = {bias is not None for _, bias in self.layers}
        if len(biased) != 1:
            raise ArgumentError(f"{self.source}: biases in some layers, expected them in all or in none")
        model = MLP(self.sizes, "relu", bias=biased.pop(), dtype=torch.float64)
        with torch.no_grad():
            for dense, (weight, bias) in zip(model.layers, self.layers, strict=True):
                dense.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))  # type: ignore[operator]
                if bias is not None:
                    dense.bias.copy_(torch.from_numpy(bias))  # type: ignore[operator]
        return model


def orient(
    pairs: Sequence[tuple[str, npt.NDArray[Any], npt.NDArray[Any] | None]],
    source: str,
    *,
    features: int | None,
    classes: int | None,
    transposed: bool,
    scaling: Scaling | None = None,
) -> ImportedNetwork:
    """Put each weight the way its neighbours' shapes demand; ``DataError``, naming the tensor, where none fits.

    ``pairs``: name, weight, bias or ``None``, first layer first. ``transposed`` is the format's convention: it decides
    for square matrices, and for the first layer where ``features`` is not known.
    """
    width, layers, turned, known = features, [], [], []
    for index, (name, weight, bias) in enumerate(pairs):
        weight = _checked(weight, 2, name, source)
        bias = None if bias is None else _checked(bias, 1, f"{name}'s bias", source)
        flip = transposed
        if width is not None and weight.shape[0] != weight.shape[1]:
            if width not in weight.shape:
                before = "the images" if index == 0 else "the layer before"
                raise DataError(
                    f"{source}: {name} has shape {weight.shape}, expected {width} inputs, as {before} gives"
                )
            flip = weight.shape[0] == width
        decided = weight.shape[0] != weight.shape[1] and width is not None
        weight_HD = np.ascontiguousarray(weight.T if flip else weight)
        if width is not None and weight_HD.shape[1] != width:
            raise DataError(f"{source}: {name} has shape {weight.shape}, expected {width} inputs")
        if bias is not None and bias.shape != weight_HD.shape[:1]:
            raise DataError(f"{source}: {name}'s bias has {len(bias)} numbers, expected {len(weight_HD)}")
        width = weight_HD.shape[0]
        layers.append((weight_HD, bias))
        turned.append(flip)
        known.append(decided)
    if not layers:
        raise DataError(f"{source}: holds no layer, expected at least one")
    if classes is not None and width != classes:
        raise DataError(f"{source}: {pairs[-1][0]} gives {width} classes, expected {classes}")
    return ImportedNetwork(tuple(layers), tuple(turned), tuple(known), source, scaling)


def _checked(array: npt.NDArray[Any], dimensions: int, name: str, source: str) -> Doubles:
    if array.ndim != dimensions or array.size == 0:
        raise DataError(f"{source}: {name} has shape {array.shape}, expected {dimensions} dimensions, none of size 0")
    doubles = array.astype(np.float64)
    if not np.isfinite(doubles).all():
        raise DataError(f"{source}: {name} holds infinities or NaN, expected finite numbers")
    return doubles
