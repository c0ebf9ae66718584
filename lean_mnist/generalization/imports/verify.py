"""Resolution of ambiguous layer orientation and pixel scaling of an imported network by its stated accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import DataError
from lean_mnist.generalization.imports.network import ImportedNetwork, scaling_of
from lean_mnist.generalization.spaces import IntegerNetwork, QuantizedNetwork

Network = ImportedNetwork | QuantizedNetwork

#: The usual scalings of pixels: to 0 … 1, and none.
USUAL_SCALINGS = (scaling_of(0.0, 255.0), scaling_of(0.0, 1.0))
_MOST_OPEN = 8
_TOLERANCE = Fraction(1, 1000)


@dataclass(frozen=True, eq=False)
class NetworkReading:
    """A network of upright images, how their pixels become features, and of how many readings it is one, in words."""

    network: Network
    scaling: Normalization
    readings: int = 1
    words: str = "as it is in the file"


def verify_on_data(
    network: Network,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    accuracy: Fraction,
    scalings: Sequence[Normalization] = USUAL_SCALINGS,
) -> NetworkReading:
    """Find the reading of ``network`` whose accuracy on the given examples is ``accuracy``, within 0.001.

    Tried are: square weights either way; images uint8 (m, rows, columns) upright or transposed; and, for a network with
    floating weights that does not state its own, the ``scalings`` of its pixels. Without biases all scalings of mean 0
    are the same reading. Raises ``DataError`` if no reading has that accuracy, or more than one.
    """
    tried = [(_accuracy(each, images, labels), each) for each in _readings(network, images.shape[1:], scalings)]
    found = [reading for own, reading in tried if abs(own - accuracy) <= _TOLERANCE]
    claimed = f"accuracy {float(accuracy):g} ± {float(_TOLERANCE):g}"
    if not found:
        highest, best = max(tried, key=lambda each: each[0])
        raise DataError(
            f"network: no reading of {len(tried)} has {claimed} on {len(images)} examples; "
            f"the best, {best.words}, has {float(highest):.4f}"
        )
    if len(found) > 1:
        raise DataError(
            f"network: {len(found)} of {len(tried)} readings have {claimed}, such as {found[0].words} and "
            f"{found[1].words}; expected one: more examples or fewer scalings tell them apart"
        )
    return replace(found[0], readings=len(tried))


def _accuracy(reading: NetworkReading, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> Fraction:
    if isinstance(reading.network, QuantizedNetwork):
        return Fraction(IntegerNetwork(reading.network).correct(images, labels), len(labels))
    model = reading.network.model().double()
    with torch.no_grad():
        predicted = model(reading.scaling.apply(torch.from_numpy(images), torch.float64)).argmax(1).numpy()
    return Fraction(int((predicted == labels).sum()), len(labels))


def _readings(network: Network, shape: tuple[int, ...], scalings: Sequence[Normalization]) -> Iterator[NetworkReading]:
    if isinstance(network, QuantizedNetwork):
        matrices: list[npt.NDArray[Any]] = [layer.codes for layer in network.layers]
        known, used = [False] * len(matrices), [scaling_of(0.0, float(network.denominator))]
    else:
        matrices = [weight for weight, _ in network.layers]
        known, used = list(network.known), list(scalings) if network.scaling is None else [network.scaling]
        if all(bias is None for _, bias in network.layers):  # a positive factor of the features changes no label
            centred = [scaling for scaling in used if scaling.mean == 0]
            used = centred[:1] + [scaling for scaling in used if scaling.mean != 0]
    either_way = [
        (False, True) if own.shape[0] == own.shape[1] and not sure else (False,)
        for own, sure in zip(matrices, known, strict=True)
    ]
    if (count := sum(map(len, either_way)) - len(matrices)) > _MOST_OPEN:
        raise DataError(f"network: {count} square layers, expected at most {_MOST_OPEN} that data have to decide")
    rows, columns = shape
    # Pixel (r, c) of an upright image is number c · rows + r of the transposed one.
    across = np.arange(rows * columns).reshape(columns, rows).T.ravel()
    for flips, transposed, scaling in itertools.product(itertools.product(*either_way), (False, True), used):
        own = [np.ascontiguousarray(m.T if flip else m) for m, flip in zip(matrices, flips, strict=True)]
        own[0] = np.ascontiguousarray(own[0][:, across]) if transposed else own[0]
        turned = ", ".join(str(index) for index, flip in enumerate(flips) if flip)
        words = f"layers {turned} transposed" if turned else "layers as they are"
        words = f"{words}, images {'transposed' if transposed else 'as they are'}"
        if isinstance(network, QuantizedNetwork):
            layers = tuple(replace(layer, codes=codes) for layer, codes in zip(network.layers, own, strict=True))
            yield NetworkReading(replace(network, layers=layers), scaling, 1, words)
        else:
            pairs = tuple((weight, bias) for weight, (_, bias) in zip(own, network.layers, strict=True))
            words = f"{words}, (pixel − {scaling.mean:g})/{scaling.scale:g}"
            yield NetworkReading(replace(network, layers=pairs), scaling, 1, words)
