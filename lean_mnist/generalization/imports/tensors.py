"""Networks from named tensors: a PyTorch ``state_dict``, a checkpoint, a safetensors file."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lean_mnist.errors import DataError
from lean_mnist.generalization.imports.files import one_line
from lean_mnist.generalization.imports.network import ImportedNetwork, orient
from lean_mnist.generalization.imports.safetensors import read_safetensors

_INSIDE = ("model", "state_dict", "model_state_dict")
_MOST_LAYERS = 8  # orders of more layers are not searched

Arrays = Mapping[str, npt.NDArray[Any]]


def read_network(path: str | Path, *, features: int | None = None, classes: int | None = None) -> ImportedNetwork:
    """The dense ReLU network in a ``.onnx`` or ``.safetensors`` file, or else in a file of ``torch.save``.

    ``features`` and ``classes`` are what the data have; with them the shapes decide how each weight was stored. Raises
    ``DataError``, one line, for what is no such network.
    """
    suffix = Path(path).suffix
    if suffix == ".onnx":
        from lean_mnist.generalization.imports.onnx import read_onnx

        return read_onnx(path, features=features, classes=classes)
    named, ordered = (read_safetensors(path), False) if suffix == ".safetensors" else (read_state_dict(path), True)
    return network_from_tensors(named, str(path), features=features, classes=classes, ordered=ordered)


def read_state_dict(path: str | Path) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a file of ``torch.save``, in its order, by PyTorch's safe reader; nothing in the file is run.

    It may be the ``state_dict`` itself or a dictionary that has it as ``model``, ``state_dict`` or ``model_state_dict``
    (a checkpoint of ours, too). Raises ``DataError``.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}), expected a state_dict") from None
    except Exception:  # damage and code show as almost any error
        raise DataError(f"{path}: refused, damaged or holds other objects than tensors and plain values") from None
    architecture = content.get("architecture") if isinstance(content, dict) else None
    if isinstance(architecture, dict) and architecture.get("activation", "relu") != "relu":
        raise DataError(f"{path}: a network with {architecture['activation']!r}, expected relu")
    for key in _INSIDE:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: holds no named tensors, expected a state_dict")
    named = {}
    for name, tensor in content.items():
        if not isinstance(tensor, torch.Tensor) or not isinstance(name, str) or tensor.layout != torch.strided:
            raise DataError(f"{path}: {str(name)[:60]!r} is a {type(tensor).__name__}, expected a dense tensor")
        if not tensor.is_floating_point():
            raise DataError(f"{path}: {one_line(name)} is {tensor.dtype}, expected floating weights of dense layers")
        named[one_line(name)] = tensor.double().numpy()
    return named


def network_from_tensors(
    named: Arrays, source: str, *, features: int | None = None, classes: int | None = None, ordered: bool = True
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
    stems = list(layers)
    numbered = sorted(stems, key=_numbers)
    refusal = None
    if ordered or len({_pattern(stem) for stem in stems}) <= 1:
        try:
            return _chained(stems if ordered else numbered, layers, source, features, classes)
        except DataError as error:
            refusal = error
    orders: list[list[str]] = []
    if features is not None and len(stems) <= _MOST_LAYERS:
        orders = list(itertools.islice(_orders(numbered, layers, features, classes), 2))
    if len(orders) > 1:
        raise DataError(f"{source}: its layers fit together in more than one order, expected one")
    return _chained(orders[0] if orders else numbered, layers, source, features, classes, refusal)


def _chained(
    order: Sequence[str],
    layers: Mapping[str, Arrays],
    source: str,
    features: int | None,
    classes: int | None,
    refusal: DataError | None = None,
) -> ImportedNetwork:
    pairs = [(f"{stem}weight", layers[stem]["weight"], layers[stem].get("bias")) for stem in order]
    try:
        return orient(pairs, source, features=features, classes=classes, transposed=False)
    except DataError as error:
        raise refusal or error from None


def _orders(left: Sequence[str], layers: Mapping[str, Arrays], width: int, classes: int | None) -> Iterator[list[str]]:
    """The orders in which each layer fits the one before; names alike but for numbers stay in their order."""
    if not left:
        if classes in (None, width):
            yield []
        return
    patterns: set[str] = set()
    for stem in left:
        pattern, shape, bias = _pattern(stem), layers[stem]["weight"].shape, layers[stem].get("bias")
        if pattern in patterns and re.search(r"\d", stem):
            continue
        patterns.add(pattern)
        if width not in shape:
            continue
        units = shape[0] if shape[1] == width else shape[1]
        if bias is None or len(bias) == units:
            for rest in _orders([other for other in left if other != stem], layers, units, classes):
                yield [stem, *rest]


def _pattern(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _numbers(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
