"""The reading of an imported network that has the accuracy stated for it, where the file leaves orientations open."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import ArgumentError, DataError
from lean_mnist.generalization.imports.network import ImportedNetwork, Scaling
from lean_mnist.generalization.spaces import IntegerNetwork, QuantizedNetwork

Network = ImportedNetwork | QuantizedNetwork
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

#: The usual scalings of pixels: to 0 … 1, and none.
USUAL_SCALINGS = (Scaling(0.0, 255.0), Scaling(0.0, 1.0))
_MOST_OPEN = 8


@dataclass(frozen=True, eq=False)
class VerifiedReading:
    """The one reading, among ``readings`` that were tried, with the stated accuracy: a network on upright images."""

    network: Network
    scaling: Scaling
    correct: int
    readings: int
    words: str


def verify_on_data(
    network: Network,
    images: Images,
    labels: Labels,
    accuracy: Fraction,
    *,
    tolerance: Fraction = Fraction(1, 1000),
    scalings: Sequence[Scaling] = USUAL_SCALINGS,
) -> VerifiedReading:
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
    tried = [
        VerifiedReading(candidate, scaling, int((_labels(candidate, images, scaling) == labels).sum()), 0, words)
        for candidate, scaling, words in _readings(network, images.shape[1:], scalings)
    ]
    found = [each for each in tried if abs(Fraction(each.correct, len(images)) - accuracy) <= tolerance]
    claimed = f"accuracy {float(accuracy):g} ± {float(tolerance):g}"
    if not found:
        best = max(tried, key=lambda each: each.correct)
        raise DataError(
            f"network: no reading of {len(tried)} has {claimed} on {len(images)} examples; "
            f"the best, {best.words}, has {best.correct / len(images):.4f}"
        )
    if len(found) > 1:
        raise DataError(
            f"network: {len(found)} of {len(tried)} readings have {claimed}, such as {found[0].words} and "
            f"{found[1].words}; expected one: more examples or fewer scalings tell them apart"
        )
    return replace(found[0], readings=len(tried))


def _readings(
    network: Network, shape: tuple[int, ...], scalings: Sequence[Scaling]
) -> Iterator[tuple[Network, Scaling, str]]:
    quantized = isinstance(network, QuantizedNetwork)
    matrices = _matrices(network)
    square = [matrix.shape[0] == matrix.shape[1] for matrix in matrices]
    if isinstance(network, QuantizedNetwork):
        used = [Scaling(0.0, float(network.denominator))]
    else:
        used = [network.scaling] if network.scaling is not None else list(scalings)
        if all(bias is None for _, bias in network.layers):  # a positive factor of the features changes no label
            centred = [scaling for scaling in used if scaling.mean == 0]
            used = centred[:1] + [scaling for scaling in used if scaling.mean != 0]
        square = [each and not known for each, known in zip(square, network.known, strict=True)]
    if sum(square) > _MOST_OPEN:
        raise DataError(f"network: {sum(square)} square layers, expected at most {_MOST_OPEN} that data have to decide")
    rows, columns = shape
    # Pixel (r, c) of an upright image is number c · rows + r of the transposed one.
    sideways = np.arange(rows * columns).reshape(columns, rows).T.ravel()
    for flips in itertools.product(*((False, True) if each else (False,) for each in square)):
        turned = ", ".join(str(index) for index, flip in enumerate(flips) if flip)
        orientation = f"layers {turned} transposed" if turned else "layers as they are"
        own = [matrix.T if flip else matrix for matrix, flip in zip(matrices, flips, strict=True)]
        for transposed, scaling in itertools.product((False, True), used):
            first = own[0][:, sideways] if transposed else own[0]
            words = f"{orientation}, images {'transposed' if transposed else 'as they are'}"
            words = words if quantized else f"{words}, (pixel − {scaling.mean:g})/{scaling.scale:g}"
            yield _with_matrices(network, [first, *own[1:]]), scaling, words


def _matrices(network: Network) -> list[npt.NDArray[Any]]:
    """Codes or weights (H, D) of each layer."""
    if isinstance(network, QuantizedNetwork):
        return [layer.codes for layer in network.layers]
    return [weight for weight, _ in network.layers]


def _with_matrices(network: Network, matrices: Sequence[npt.NDArray[Any]]) -> Network:
    matrices = [np.ascontiguousarray(matrix) for matrix in matrices]
    if isinstance(network, QuantizedNetwork):
        layers = tuple(replace(layer, codes=own) for layer, own in zip(network.layers, matrices, strict=True))
        return replace(network, layers=layers)
    pairs = tuple((own, bias) for (_, bias), own in zip(network.layers, matrices, strict=True))
    return replace(network, layers=pairs)


def _labels(network: Network, images: Images, scaling: Scaling) -> Labels:
    if isinstance(network, QuantizedNetwork):
        return IntegerNetwork(network).labels(images)
    labels: Labels = network.logits(images, scaling).argmax(1).astype(np.int64)
    return labels
