"""Certification of networks that were trained elsewhere, or rounded to few bits after training."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

import numpy as np

from lean_mnist.data.datasets import Dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import CertificateError, DataError
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates.document import Certificate, ClaimOptions
from lean_mnist.generalization.certificates.holdout import certify
from lean_mnist.generalization.confidence import SplitHistory
from lean_mnist.generalization.exact import Exact, exact
from lean_mnist.generalization.imports.mlcert import read_mlcert
from lean_mnist.generalization.imports.network import ImportedNetwork, scaling_of
from lean_mnist.generalization.imports.onnx import read_onnx
from lean_mnist.generalization.imports.tensors import (
    load_safely,
    network_from_tensors,
    read_safetensors,
    read_state_dict,
)
from lean_mnist.generalization.imports.verify import USUAL_SCALINGS, NetworkReading, verify_on_data
from lean_mnist.generalization.quantize import fold_scaling, quantize_layers
from lean_mnist.generalization.spaces import QuantizedNetwork, read_network


class NetworkFile(Enum):
    """The kinds of files that hold a network."""

    CHECKPOINT = "a checkpoint of lean_mnist"
    QUANTIZED = "a quantised network of lean_mnist"
    MLCERT = "a pickle of MLCERT"
    ONNX = "an ONNX file"
    SAFETENSORS = "a safetensors file"
    STATE_DICT = "a state_dict of PyTorch"


_SUFFIXES = {
    ".json": NetworkFile.QUANTIZED,
    ".pkl": NetworkFile.MLCERT,
    ".pkl.gz": NetworkFile.MLCERT,
    ".onnx": NetworkFile.ONNX,
    ".safetensors": NetworkFile.SAFETENSORS,
}


def kind_of(path: str) -> NetworkFile:
    """The kind of the file at ``path``, by the end of its name; of those of ``torch.save`` by their content.

    What PyTorch's safe reader refuses counts as a checkpoint, whose reader says why.
    """
    for suffix, kind in _SUFFIXES.items():
        if path.endswith(suffix):
            return kind
    try:
        return NetworkFile.CHECKPOINT if "format_version" in load_safely(path) else NetworkFile.STATE_DICT
    except DataError:
        return NetworkFile.CHECKPOINT


def import_network(path: str, kind: NetworkFile, features: int, classes: int) -> ImportedNetwork | QuantizedNetwork:
    """The dense ReLU network in a file, for so many pixels and classes; raises ``DataError`` for what holds none."""
    if kind is NetworkFile.QUANTIZED:
        return read_network(path)
    if kind is NetworkFile.MLCERT:
        return read_mlcert(path)
    if kind is NetworkFile.ONNX:
        return read_onnx(path, features, classes)
    ordered = kind is not NetworkFile.SAFETENSORS
    named = read_state_dict(path) if ordered else read_safetensors(path)
    network = network_from_tensors(named, path, features, classes, ordered=ordered)
    if kind is not NetworkFile.CHECKPOINT:
        return network
    normalization = Normalization.from_dict(load_safely(path).get("normalization", {}))
    if normalization.kind == "per-image":
        raise DataError(f"{path}: per-image normalisation, expected standard or unit, which are one map of all pixels")
    return replace(network, scaling=normalization)


def read_for(
    dataset: Dataset,
    path: str,
    kind: NetworkFile,
    *,
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
            raise CertificateError(f"--scaling: expected {stated.mean:g} {stated.scale:g}, as {path} states")
        stated = given
    readings = 1
    if accuracy is not None:
        images, labels = dataset.test.images.numpy(), dataset.test.labels.numpy()
        tried = USUAL_SCALINGS if stated is None else [stated]
        found = verify_on_data(network, images, labels, exact(accuracy, "--accuracy"), tried)
        network, stated, readings = found.network, found.scaling, found.readings
    if stated is None:
        raise CertificateError(
            f"--scaling: expected MEAN SCALE for features (pixel − MEAN) / SCALE, which {path} does not state"
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
    history = SplitHistory("test", looks + reading.readings - 1, options.adaptive)
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
