"""Is an imported network read the right way? Its accuracy on data decides, where the shapes leave it open."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import ArgumentError, DataError
from lean_mnist.generalization.imports.network import ImportedNetwork, Scaling
from lean_mnist.generalization.spaces.integers import IntegerNetwork
from lean_mnist.generalization.spaces.network import QuantizedNetwork

N = TypeVar("N", ImportedNetwork, QuantizedNetwork)

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

_UNIT = Scaling(0.0, 255.0)
_MOST_OPEN = 8


@dataclass(frozen=True, eq=False)
class Verified(Generic[N]):
    """The one reading of a network that has the accuracy that was claimed for it."""

    network: N
    scaling: Scaling
    images_transposed: bool
    correct: int
    examples: int
    readings: int  # how many were tried
    reading: str  # in words


def verify_on_data(
    network: N,
    images: Images,
    labels: Labels,
    accuracy: float,
    *,
    tolerance: float = 0.001,
    scalings: Sequence[Scaling] = (_UNIT, Scaling(0.0, 1.0)),
) -> Verified[N]:
    """Find the reading of ``network`` whose accuracy on the given examples is ``accuracy``, within ``tolerance``.

    Tried are: square weights either way; images uint8 (m, rows, columns) upright or transposed; and, for a network with
    floating weights that does not state its own, the ``scalings`` of its pixels. Without biases all scalings of mean 0
    are the same reading. Raises ``DataError`` if no reading has that accuracy, or more than one.
    """
    if len(images) == 0 or images.ndim != 3 or labels.shape != (len(images),):
        raise ArgumentError(
            f"images, labels: shapes {images.shape}, {labels.shape}, expected (m, rows, columns) and (m,)"
        )
    if not 0 <= accuracy <= 1 or not 0 <= tolerance < 1:
        raise ArgumentError(f"accuracy, tolerance: {accuracy}, {tolerance}, expected numbers from 0 to 1")
    upright, m = images, len(images)
    sideways = np.ascontiguousarray(images.transpose(0, 2, 1))
    found: list[Verified[N]] = []
    tried: list[tuple[int, str]] = []
    for candidate, scaling, predict, words in _readings(network, scalings):
        for transposed, shown in ((False, upright), (True, sideways)):
            right = int((predict(shown) == labels).sum())
            words_here = f"{words}, images {'transposed' if transposed else 'as they are'}"
            tried.append((right, words_here))
            if abs(Fraction(right, m) - Fraction(str(accuracy))) <= Fraction(str(tolerance)):
                found.append(Verified(candidate, scaling, transposed, right, m, 0, words_here))
    if not found:
        right, words = max(tried)
        raise DataError(
            f"network: no reading of {len(tried)} has accuracy {accuracy} ± {tolerance} on {m} examples; "
            f"the best, {words}, has {right / m:.4f}"
        )
    if len(found) > 1:
        raise DataError(
            f"network: {len(found)} of {len(tried)} readings have accuracy {accuracy} ± {tolerance}, such as "
            f"{found[0].reading} and {found[1].reading}; expected one: more examples or fewer scalings tell them apart"
        )
    return replace(found[0], readings=len(tried))


_Reading = tuple[N, Scaling, Callable[[Images], Labels], str]


def _readings(network: N, scalings: Sequence[Scaling]) -> Iterator[_Reading[N]]:
    if isinstance(network, QuantizedNetwork):
        square = [layer.codes.shape[0] == layer.codes.shape[1] for layer in network.layers]
        for flips in _flips(square):
            layers = tuple(
                replace(layer, codes=np.ascontiguousarray(layer.codes.T)) if flip else layer
                for layer, flip in zip(network.layers, flips, strict=True)
            )
            turned = QuantizedNetwork(layers, network.denominator)
            yield turned, Scaling(0.0, float(network.denominator)), IntegerNetwork(turned).labels, _words(flips)
        return
    used = [network.scaling] if network.scaling is not None else list(scalings)
    if all(bias is None for _, bias in network.layers):  # a positive factor of the features changes no label
        centred = [scaling for scaling in used if scaling.mean == 0]
        used = centred[:1] + [scaling for scaling in used if scaling.mean != 0]
    for flips in _flips([not known for known in network.known]):
        if any(
            flip and weight.shape[0] != weight.shape[1] for flip, (weight, _) in zip(flips, network.layers, strict=True)
        ):
            continue  # a first layer whose inputs nobody stated: turned, it would not fit the second
        turned_network = network.turned(flips)
        for scaling in used:
            predict = functools.partial(_float_labels, turned_network, scaling)
            yield turned_network, scaling, predict, f"{_words(flips)}, (pixel − {scaling.mean:g})/{scaling.scale:g}"


def _float_labels(network: ImportedNetwork, scaling: Scaling, images: Images) -> Labels:
    labels: Labels = network.logits(images, scaling).argmax(1).astype(np.int64)
    return labels


def _flips(open_: Sequence[bool]) -> Iterator[tuple[bool, ...]]:
    if sum(open_) > _MOST_OPEN:
        raise DataError(f"network: {sum(open_)} square layers, expected at most {_MOST_OPEN} that data have to decide")
    return itertools.product(*((False, True) if each else (False,) for each in open_))


def _words(flips: Sequence[bool]) -> str:
    turned = [str(index) for index, flip in enumerate(flips) if flip]
    return f"layers {', '.join(turned)} transposed" if turned else "layers as they are"
