"""Certification of networks that were trained elsewhere, or rounded to few bits after training."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from lean_mnist.data.datasets import Dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import CertificateError, CheckpointError, DataError
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates.document import Certificate, ClaimOptions
from lean_mnist.generalization.certificates.networks import certify
from lean_mnist.generalization.confidence import SplitHistory
from lean_mnist.generalization.exact import Exact, exact
from lean_mnist.generalization.imports.mlcert import read_mlcert
from lean_mnist.generalization.imports.network import ImportedNetwork, network_from_tensors, scaling_of
from lean_mnist.generalization.imports.onnx import read_onnx
from lean_mnist.generalization.imports.tensors import load_dictionary, read_safetensors, read_state_dict
from lean_mnist.generalization.quantize import fold_scaling, quantize_layers
from lean_mnist.generalization.spaces.encoding import read_network
from lean_mnist.generalization.spaces.integers import IntegerNetwork
from lean_mnist.generalization.spaces.network import QuantizedNetwork
from lean_mnist.reading.text import printable, shown

Network = ImportedNetwork | QuantizedNetwork

USUAL_SCALINGS = (scaling_of(0.0, 255.0), scaling_of(0.0, 1.0))  # of pixels: to 0 … 1, and none
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


class NetworkFile(Enum):
    """The kinds of files that hold a network."""

    CHECKPOINT = "a checkpoint of lean_mnist"
    QUANTIZED = "a quantised network of lean_mnist"
    MLCERT = "a pickle of MLCERT"
    ONNX = "an ONNX file"
    SAFETENSORS = "a safetensors file"
    STATE_DICT = "a state_dict of PyTorch"


SUFFIXES = {
    ".json": NetworkFile.QUANTIZED,
    ".pkl": NetworkFile.MLCERT,
    ".pkl.gz": NetworkFile.MLCERT,
    ".onnx": NetworkFile.ONNX,
    ".safetensors": NetworkFile.SAFETENSORS,
}


def kind_of(path: str) -> NetworkFile:
    """The kind of the file at ``path``, by the end of its name; of those of ``torch.save`` by their content.

    Raises ``DataError`` for a file of another name that is none of ``torch.save``.
    """
    for suffix, kind in SUFFIXES.items():
        if path.endswith(suffix):
            return kind
    return NetworkFile.CHECKPOINT if "format_version" in load_dictionary(path) else NetworkFile.STATE_DICT


def import_network(path: str, kind: NetworkFile, features: int, classes: int) -> ImportedNetwork | QuantizedNetwork:
    """The dense ReLU network in a file, for so many pixels and classes; raises ``DataError`` for what holds none."""
    if kind is NetworkFile.QUANTIZED:
        return read_network(path)
    if kind is NetworkFile.MLCERT:
        return read_mlcert(path)
    if kind is NetworkFile.ONNX:
        return read_onnx(path, features, classes)
    if kind is NetworkFile.SAFETENSORS:
        named, metadata = read_safetensors(path)
        stated = _stated(metadata, path)
    else:
        named = read_state_dict(path)
        stated = load_dictionary(path).get("normalization", {}) if kind is NetworkFile.CHECKPOINT else None
    network = network_from_tensors(named, shown(path), features, classes, ordered=kind is not NetworkFile.SAFETENSORS)
    if stated is None:
        return network
    try:
        normalization = Normalization.from_dict(stated)
    except CheckpointError as error:
        raise DataError(f"{shown(path)}: {error}") from None
    if normalization.kind == "per-image" or normalization.clip is not None:
        found = "clipped" if normalization.clip is not None else "per-image"
        found += " normalisation, expected standard, centered or unit, which are one map of all pixels"
        raise DataError(f"{shown(path)}: {found}")
    return replace(network, scaling=normalization)


def _stated(metadata: Mapping[str, str], path: str) -> Any:
    """The normalisation that an export of ours states in its metadata; ``None`` where there is none.

    Raises ``DataError`` where it names another activation than ReLU, which tensors alone do not show.
    """
    values: dict[str, Any] = {}
    for name in ("architecture", "normalization"):
        text = metadata.get(f"lean_mnist.{name}", "null")
        try:
            values[name] = msgspec.json.decode(text)
        except (msgspec.MsgspecError, RecursionError):
            raise DataError(f"{shown(path)}: metadata lean_mnist.{name}: expected JSON, found others") from None
    architecture = values["architecture"]
    activation = architecture.get("activation", "relu") if isinstance(architecture, dict) else "relu"
    if activation != "relu":
        raise DataError(f"{shown(path)}: a network with {printable(repr(activation), 40)}, expected relu")
    return values["normalization"]


def read_for(
    dataset: Dataset,
    path: str,
    kind: NetworkFile,
    scaling: tuple[float, float] | None = None,
    accuracy: Exact | None = None,
    quantize: int | None = None,
) -> NetworkReading:
    """The network in a file, read for the images of ``dataset``.

    ``scaling``: mean and scale of pixels, where the file does not state them. With an ``accuracy`` on the test split,
    measured elsewhere, every reading is tried (:func:`verify_on_data`). ``quantize``: bits a weight to round to.
    Raises ``DataError``, ``ArgumentError`` or ``CertificateError``.
    """
    network = import_network(path, kind, dataset.features, dataset.classes)
    stated = network.scaling if isinstance(network, ImportedNetwork) else scaling_of(0.0, float(network.denominator))
    if scaling is not None:
        given = scaling_of(*scaling)
        if stated is not None and (stated.mean, stated.scale) != scaling:
            raise CertificateError(f"--scaling: expected {stated.mean:g} {stated.scale:g}, as {shown(path)} states")
        stated = given
    readings = 1
    if accuracy is not None:
        images, labels = dataset.test.images.numpy(), dataset.test.labels.numpy()
        tried = USUAL_SCALINGS if stated is None else [stated]
        found = verify_on_data(network, images, labels, exact(accuracy, "--accuracy"), tried)
        network, stated, readings = found.network, found.scaling, found.readings
    if stated is None:
        raise CertificateError(
            f"--scaling: expected MEAN SCALE for features (pixel − MEAN) / SCALE, which {shown(path)} does not state"
        )
    if quantize is not None:
        if isinstance(network, QuantizedNetwork):
            raise CertificateError(f"--quantize: expected a network of floating weights, found {kind.value}")
        folded = fold_scaling(network.layers, stated.mean, stated.scale, dataset.maximum)
        network = quantize_layers(folded, quantize, dataset.maximum)
        stated = scaling_of(0.0, float(dataset.maximum))
    return NetworkReading(network, stated, readings)


def certify_reading(reading: NetworkReading, dataset: Dataset, options: ClaimOptions) -> Certificate:
    """The certificate of a network by the test split of ``dataset``, which must have taught and chosen nothing of it.

    Its ``looks`` at that split, 1 if not given, are paid for, and every reading that was tried. Raises
    ``CertificateError`` or ``BoundError``.
    """
    looks = 1 if options.looks is None else options.looks
    if looks < 1:
        raise CertificateError(f"--looks: expected at least 1, found {looks}")
    network = reading.network
    if isinstance(network, QuantizedNetwork):
        network = exact_layers(network)
        options = replace(options, precision="float64") if options.precision == "auto" else options
    history = SplitHistory(looks + reading.readings - 1, options.adaptive)
    elsewhere = checker.SELECTED_ELSEWHERE
    return certify(network.model(), reading.scaling, dataset, history, options, selected_by=elsewhere)


def exact_layers(network: QuantizedNetwork) -> ImportedNetwork:
    """The layers of a quantised network in float64; ``CertificateError`` where float64 does not hold them exactly."""
    layers = []
    for weight, bias, exponent in (layer.integers() for layer in network.layers):
        numbers = [weight] if bias is None else [weight, bias]
        if max(int(np.abs(array).max()).bit_length() for array in numbers) > 53:
            raise CertificateError("network: its weights need more than float64 holds, expected --split train for it")
        weight_HD, *biases = (array.astype(np.float64) * 2.0**-exponent for array in numbers)
        layers.append((weight_HD, biases[0] if biases else None))
    return ImportedNetwork(tuple(layers), (True,) * len(layers))
