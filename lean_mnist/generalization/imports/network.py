"""Dense ReLU networks from elsewhere: layers, orientation and scaling of pixels, as far as the file decides them."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import DataError
from lean_mnist.nn import MLP

Doubles = npt.NDArray[np.float64]
NamedLayer = tuple[str, npt.NDArray[Any], npt.NDArray[Any] | None]  # name, weight, and bias or ``None``


@dataclass(frozen=True, eq=False)
class ImportedNetwork:
    """Dense layers with ReLU between them. ``layers`` are pairs of weight float64 (H, D) and bias (H,) or ``None``.

    ``known[l]``: whether shapes decide which side of layer l's matrix is H; where it is square only the format's
    convention does, until :func:`verify_on_data` is asked. ``scaling``: how pixels become features, if the file says
    so.
    """

    layers: tuple[tuple[Doubles, Doubles | None], ...]
    known: tuple[bool, ...]
    scaling: Normalization | None = None

    def model(self) -> MLP:
        """As an ``MLP``, in float32 if that holds every number, else float64; with biases if any layer has one."""
        sizes = (self.layers[0][0].shape[1], *(len(weight) for weight, _ in self.layers))
        numbers = [array for pair in self.layers for array in pair if array is not None]
        with np.errstate(over="ignore"):
            narrow = all(np.array_equal(array.astype(np.float32), array) for array in numbers)
        biased = any(bias is not None for _, bias in self.layers)
        model = MLP(sizes, "relu", bias=biased, dtype=torch.float32 if narrow else torch.float64)
        with torch.no_grad():
            for (own_weight, own_bias), (weight, bias) in zip(model.parameter_pairs(), self.layers, strict=True):
                own_weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
                if own_bias is not None:
                    own_bias.copy_(torch.from_numpy(np.zeros(len(weight)) if bias is None else bias))
        return model


def scaling_of(mean: float, scale: float) -> Normalization:
    """Features ``(pixel − mean) / scale``; ``CheckpointError`` unless both are finite and ``scale`` is above 0."""
    return Normalization.from_dict({"kind": "standard", "mean": mean, "scale": scale})


def orient(named: Sequence[NamedLayer], source: str, features: int, classes: int) -> ImportedNetwork:
    """Put each weight the way its neighbours' shapes demand; ``DataError``, naming the tensor, where none fits.

    ``named``: first layer first. A square matrix is taken as (H, D).
    """
    width, known = features, []
    layers: list[tuple[Doubles, Doubles | None]] = []
    for name, weight, bias in named:
        weight_HD = _checked(weight, 2, name, source)
        units, inputs = weight_HD.shape
        if width not in (units, inputs):
            before = "the layer before gives" if layers else "the images have"
            raise DataError(f"{source}: {name} has shape {weight.shape}, expected {width} inputs, as {before}")
        known.append(units != inputs)
        if width != inputs:
            weight_HD = np.ascontiguousarray(weight_HD.T)
        width = len(weight_HD)
        bias_H = None if bias is None else _checked(bias, 1, f"{name}'s bias", source)
        if bias_H is not None and len(bias_H) != width:
            raise DataError(f"{source}: {name}'s bias has {len(bias_H)} numbers, expected {width}")
        layers.append((weight_HD, bias_H))
    if not layers:
        raise DataError(f"{source}: holds no layer, expected at least one")
    if width != classes:
        raise DataError(f"{source}: {named[-1][0]} gives {width} classes, expected {classes}")
    return ImportedNetwork(tuple(layers), tuple(known))


def _checked(array: npt.NDArray[Any], dimensions: int, name: str, source: str) -> Doubles:
    if array.ndim != dimensions or array.size == 0:
        raise DataError(f"{source}: {name} has shape {array.shape}, expected {dimensions} dimensions, none of size 0")
    with np.errstate(invalid="ignore"):  # of signalling NaN, which are refused with all others
        doubles = array.astype(np.float64)
    if not np.isfinite(doubles).all():
        raise DataError(f"{source}: {name} holds infinities or NaN, expected finite numbers")
    return doubles


_MOST_LAYERS = 8  # orders of more layers are not searched

Arrays = Mapping[str, npt.NDArray[Any]]


def network_from_tensors(
    named: Arrays, source: str, features: int, classes: int, *, ordered: bool = True
) -> ImportedNetwork:
    """The network whose layers are the tensors ``….weight`` (2-dimensional) with their ``….bias``.

    Every tensor must be one of these. Weights are (H, D) by PyTorch's convention, unless the shapes say otherwise. The
    order is that of ``named`` where ``ordered``, or that of the numbers in names that differ in nothing else, if its
    shapes make a chain from ``features`` to ``classes``; otherwise the only order that does, names that differ in a
    number alone keeping theirs. ``DataError`` where there is none or more than one.
    """
    layers: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for name, array in named.items():
        stem, dot, kind = name.rpartition(".")
        if kind not in ("weight", "bias") or array.ndim != {"weight": 2, "bias": 1}[kind]:
            what = "….weight of 2 dimensions and ….bias of 1"
            raise DataError(f"{source}: {name} of shape {array.shape} belongs to no dense layer, expected only {what}")
        layers.setdefault(stem + dot, {})[kind] = array
    for stem, parts in layers.items():
        if "weight" not in parts:
            raise DataError(f"{source}: {stem}bias has no {stem}weight beside it")

    def chained(order: Sequence[str]) -> ImportedNetwork:
        """The network of the layers in this order."""
        parts = [(f"{stem}weight", layers[stem]["weight"], layers[stem].get("bias")) for stem in order]
        return orient(parts, source, features, classes)

    numbered, refusal = sorted(layers, key=_numbers), None
    if ordered or len({_pattern(stem) for stem in layers}) <= 1:
        try:
            return chained(list(layers) if ordered else numbered)
        except DataError as error:
            refusal = error
    alike = [(a, b) for a, b in itertools.combinations(numbered, 2) if _pattern(a) == _pattern(b)]
    chains = _chains(numbered, layers, features, classes) if len(layers) <= _MOST_LAYERS else ()
    orders = [order for order in chains if all(order.index(a) < order.index(b) for a, b in alike)]
    if len(orders) > 1:
        raise DataError(f"{source}: its layers fit together in more than one order, expected one")
    if not orders and refusal is not None:
        raise refusal
    return chained(orders[0] if orders else numbered)


def _chains(left: Sequence[str], layers: Mapping[str, Arrays], width: int, classes: int) -> Iterator[list[str]]:
    """Orders of the layers ``left`` in which each takes what the one before gives, from ``width`` to ``classes``."""
    if not left and width == classes:
        yield []
    for stem in left:
        shape, bias = layers[stem]["weight"].shape, layers[stem].get("bias")
        if width in shape:
            units = shape[0] if shape[1] == width else shape[1]
            if bias is None or len(bias) == units:
                others = [other for other in left if other != stem]
                yield from ([stem, *order] for order in _chains(others, layers, units, classes))


def _pattern(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _numbers(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
